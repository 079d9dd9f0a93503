"""Classify with a Keras model file: slower to load than its translation, but runs on a GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from image_classifier.computing.openvino_model import build_function
from image_classifier.networks.tensorflow_setup import tf
from image_classifier.networks.translation import translate_model
from image_classifier.training.model_file import load_model


def load_function(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a model file, as a function from pixels, uint8 (n, ...), to float32 (n, class_count).

    Raises:
        InputError: if it is not a model file of this repository.
    """
    network = load_model(path).network
    if not tf.config.list_physical_devices("GPU"):
        return build_function(translate_model(network), "probabilities")
    signature = tf.TensorSpec(network.input_shape, tf.uint8)
    function = tf.function(
        lambda x: network(tf.cast(x, tf.float32), training=False), input_signature=[signature]
    )
    return lambda pixels: function(pixels).numpy()
