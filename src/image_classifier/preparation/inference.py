"""Run a network that is not trained, as fast as this machine can."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from image_classifier.computing.tensorflow_setup import keras, tf

ROWS_PER_REQUEST = 4  # of one core; larger ones are no faster, and leave some of many cores idle


def build_function(
    network: keras.Model, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function of a network as it is now, for many batches, whatever their sizes.

    Without a GPU it is OpenVINO's translation, 2 to 6 times as fast as `network.predict`
    (benchmarks/README.md); results differ from TensorFlow's in the last digits of float32.

    Args:
        network: with one input of fixed size and one output.
        threads: to use; None: one for each core of the machine. Results do not depend on it.

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
    # OpenVINO would tell its maker of every import; without this module it does not.
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
            "PERFORMANCE_HINT": "THROUGHPUT",  # a batch on each core, rather than one on all
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would take bfloat16
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        },
    )
    # Threads rather than OpenVINO's own queue, which at times never ends when it is deleted.
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
