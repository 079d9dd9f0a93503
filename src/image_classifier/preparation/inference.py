"""Run a frozen network as fast as possible on this machine."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from image_classifier.computing.tensorflow_setup import keras, tf

ROWS_PER_REQUEST = 4  # per core; more is no faster, and leaves some of many cores idle


def build_function(
    network: keras.Model, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Build a function of a network with its current weights, for batches of any size.

    Without a GPU, the network is translated to OpenVINO, 2 to 6 times as fast as
    `network.predict` (benchmarks/README.md). Results differ from TensorFlow's in the last digits
    of float32.

    Args:
        network: with one input of fixed size and one output.
        threads: number of threads (None: one per core). Results do not depend on it.

    Returns:
        A function from an array (n, ...) of any numeric type to float32 (n, ...).
    """
    signature = tf.TensorSpec(network.input_shape, tf.float32)
    function = tf.function(lambda x: network(x, training=False), input_signature=[signature])
    if tf.config.list_physical_devices("GPU"):
        return lambda batch: function(tf.cast(batch, tf.float32)).numpy()
    return _translate(function, threads)


def _translate(
    function: tf.types.experimental.PolymorphicFunction, threads: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    # Disables OpenVINO telemetry, which would report every import.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    model = openvino.convert_model(function.get_concrete_function())
    shape = model.input(0).get_partial_shape()
    shape[0] = ROWS_PER_REQUEST
    model.reshape(shape)
    compiled = openvino.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "THROUGHPUT",  # a batch per core, not one batch on all cores
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would use bfloat16
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        },
    )
    # Threads rather than OpenVINO's own queue, which sometimes hangs when it is deleted.
    own = threading.local()
    pool = ThreadPoolExecutor(
        compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"),
        initializer=lambda: setattr(own, "request", compiled.create_infer_request()),
    )

    def infer(rows: np.ndarray) -> np.ndarray:
        inputs = rows.astype(np.float32, copy=False)
        if len(rows) < ROWS_PER_REQUEST:
            inputs = np.resize(inputs, (ROWS_PER_REQUEST, *rows.shape[1:]))
        return own.request.infer([inputs], share_inputs=True)[0][: len(rows)]

    def run(batch: np.ndarray) -> np.ndarray:
        starts = range(0, len(batch), ROWS_PER_REQUEST)
        parts = pool.map(infer, [batch[start : start + ROWS_PER_REQUEST] for start in starts])
        return np.concatenate(list(parts))

    return run
