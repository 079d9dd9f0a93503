"""Configure and import TensorFlow: other modules import `tf` and `keras` from here.

Settings for other projects, in `~/.keras/keras.json` or the environment, do not change results.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Environment variables that change what is computed.
CHANGING_RESULTS = (
    *("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED"),
    *("TF_USE_LEGACY_KERAS", "TF_FUNCTION_JIT_COMPILE_DEFAULT", "TF_XLA_FLAGS"),
    # Convolutions and products in bfloat16.
    *("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE"),
)
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


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN is off by default on AMD processors, where it was 1.2 to 1.9 times as fast.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["MPLBACKEND"] = "agg"  # Keras imports matplotlib
for name in CHANGING_RESULTS:
    os.environ.pop(name, None)
keras_home = os.environ.get("KERAS_HOME")
os.environ["KERAS_HOME"] = os.devnull  # has no keras.json, so Keras uses its own defaults
# Garbage collection of these modules' million objects would take a second, here and at exit.
gc.disable()
with _quiet_without_gpu():
    import tensorflow as tf

    tf.config.list_physical_devices("GPU")  # makes TensorFlow look for CUDA now

import keras  # noqa: E402  (after the settings)
from keras.src.backend import config  # noqa: E402

del os.environ["KERAS_HOME"]
if keras_home:
    os.environ["KERAS_HOME"] = keras_home
# Weights that Keras downloads stay in the user's folder, or in /tmp if that does not exist.
config._KERAS_DIR = os.path.expanduser(keras_home or "~/.keras")  # noqa: PTH111
with suppress(OSError):
    Path(config._KERAS_DIR).mkdir(parents=True, exist_ok=True)

gc.freeze()
gc.enable()


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras, and select deterministic kernels.

    Results are then bit-identical on the same machine with the same number of cores.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
