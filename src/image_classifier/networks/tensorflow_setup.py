"""Configure and import TensorFlow: other modules import `tf` and `keras` from here.

Settings for other projects, in `~/.keras/keras.json` or the environment, do not change results.
"""

import gc
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

# Environment variables that change what is computed.
CHANGING_RESULTS = (
    *("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED"),
    *("TF_USE_LEGACY_KERAS", "TF_FUNCTION_JIT_COMPILE_DEFAULT", "TF_XLA_FLAGS"),
    # Convolutions and products in bfloat16.
    *("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE"),
)
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")  # on Linux, and on WSL
HIDDEN = ("", "-1")  # values of CUDA_VISIBLE_DEVICES


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, and drop it unless the process crashes.

    TensorFlow's native code prints long messages during its import, such as about oneDNN and
    missing CUDA, which neither its log level nor `sys.stderr` controls. But if it aborts, for
    example on a processor without AVX, the message is the reason: another process holds the lines
    back, and prints them if this one ends.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    keeper = subprocess.Popen(["tail", "-n", "50"], stdin=subprocess.PIPE, stdout=kept)
    os.dup2(keeper.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        keeper.kill()
        keeper.communicate()


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let imports of packages fail, as if they were not installed.

    Keras and TensorFlow would import these for functions that nothing here uses, which takes a
    third of their time.
    """
    loaded = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(loaded)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN is off by default on AMD processors, where it was 1.2 to 1.9 times as fast.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
# By default a process takes all memory of all GPUs: none would be left for a second one, such as
# another trial of a sweep, and the chart of memory would say nothing.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ["KERAS_BACKEND"] = "tensorflow"
for name in CHANGING_RESULTS:
    os.environ.pop(name, None)
keras_home = os.environ.get("KERAS_HOME")
os.environ["KERAS_HOME"] = os.devnull  # has no keras.json, so Keras uses its own defaults
# Garbage collection of these modules' million objects would take a second, here and at exit.
gc.disable()
with (
    nullcontext() if os.environ["TF_CPP_MIN_LOG_LEVEL"] in ("0", "1") else _quiet(),
    _hidden("matplotlib", "scipy", "sklearn"),
):
    import keras  # noqa: F401
    import tensorflow as tf
    from keras.src.backend import config

    gpus = tf.config.list_physical_devices("GPU")  # makes TensorFlow look for CUDA now

del os.environ["KERAS_HOME"]
if keras_home:
    os.environ["KERAS_HOME"] = keras_home
# Weights that Keras downloads stay in the user's folder, or in /tmp if that does not exist.
config._KERAS_DIR = os.path.expanduser(keras_home or "~/.keras")  # noqa: PTH111
with suppress(OSError):
    Path(config._KERAS_DIR).mkdir(parents=True, exist_ok=True)

gc.freeze()
gc.enable()

has_driver = any(map(os.path.exists, NVIDIA_DEVICES))
if has_driver and not gpus and os.environ.get("CUDA_VISIBLE_DEVICES") not in HIDDEN:
    print(
        "warning: TensorFlow cannot use this machine's GPU: `pip install 'tensorflow[and-cuda]'` "
        "installs CUDA; with TF_CPP_MIN_LOG_LEVEL=0, TensorFlow prints what is missing",
        file=sys.stderr,
    )


@contextmanager
def in_float32() -> Iterator[None]:
    """A block in which a GPU multiplies in float32, instead of rounding to TF32 before."""
    rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(rounds)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras, and select deterministic kernels.

    Results are then bit-identical on the same machine with the same number of cores.
    """
    # Keras takes all seeds from Python. Its own function would also seed TensorFlow's operations,
    # which nothing here uses, and for that make TensorFlow compile traced functions again.
    random.seed(seed)
    np.random.seed(seed)
    tf.config.experimental.enable_op_determinism()
