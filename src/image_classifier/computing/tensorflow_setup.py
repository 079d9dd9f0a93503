"""Configure and import TensorFlow: other modules import `tf` and `keras` from here."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")  # on Linux, and on WSL


@contextmanager
def _quiet_without_gpu() -> Iterator[None]:
    """Silence file descriptor 2 on machines without an NVIDIA GPU.

    There TensorFlow's native code prints long messages about missing CUDA, which neither its log
    level nor `sys.stderr` controls.
    """
    if any(map(os.path.exists, NVIDIA_DEVICES)):
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# oneDNN is off by default on AMD processors, where it was 1.2 to 1.9 times as fast.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"
# Garbage collection of these modules' million objects would take a second, here and at exit.
gc.disable()
with _quiet_without_gpu():
    import tensorflow as tf

    tf.config.list_physical_devices("GPU")  # makes TensorFlow look for CUDA now

import keras  # noqa: E402  (after the settings)

gc.freeze()
gc.enable()


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras, and select deterministic kernels.

    Results are then bit-identical on the same machine with the same number of cores.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
