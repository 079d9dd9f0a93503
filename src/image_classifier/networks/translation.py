"""Translate networks from Keras to OpenVINO."""

from collections.abc import Callable

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.computing.openvino_model import build_function, named, openvino
from image_classifier.networks.tensorflow_setup import keras, tf

ALLOWED_DIFFERENCE = 1e-4  # both round float32, in different orders


def translate_extractor(extractor: keras.Model) -> openvino.Model:
    """Translate a network from pixels to features, with its current weights."""
    return _translate(extractor.input_shape, lambda x: [extractor(x, training=False)], "features")


def translate_model(model: keras.Model) -> openvino.Model:
    """Translate a network of `classifier.build_model`, with its current weights."""
    names = ("feature_extractor", "classifier", "probabilities")
    extractor, classifier, softmax = map(model.get_layer, names)

    def call(pixels: tf.Tensor) -> list[tf.Tensor]:
        features = extractor(pixels, training=False)
        return [softmax(classifier(features, training=False)), features]

    return _translate(model.input_shape, call, "probabilities", "features")


def check_translation(
    model: openvino.Model, output: str, inputs: np.ndarray, expected: np.ndarray, largest: float
) -> None:
    """Check that a translated network gives what Keras gives for inputs, (n, ...).

    `largest` is the largest number from which the output is computed.

    Raises:
        InputError: if an output differs by more than `ALLOWED_DIFFERENCE`, times `largest` if that
            is above 1.
    """
    difference = np.abs(build_function(model, output)(inputs) - expected).max()
    allowed = ALLOWED_DIFFERENCE * max(1, largest)
    if not difference <= allowed:
        version, *_ = openvino.__version__.split("-")  # without that of its source
        raise InputError(
            f"OpenVINO {version}: found {output} that differ by {difference:.3g} from those of "
            f"Keras {keras.version()}, allowed: {allowed:.3g}; use the versions in "
            "constraints.txt"
        )


def _translate(
    input_shape: tuple, call: Callable[[tf.Tensor], list[tf.Tensor]], *names: str
) -> openvino.Model:
    """Translate a function of pixels; `names` are those of its outputs, in their order."""
    signature = tf.TensorSpec(input_shape, tf.float32)
    function = tf.function(call, input_signature=[signature]).get_concrete_function()
    model = openvino.convert_model(function)
    outputs = {}
    for number, name in enumerate(names):  # OpenVINO adds outputs for values that nothing uses
        result = model.output(f"Identity_{number}:0" if number else "Identity:0").get_node()
        outputs[name] = result.input_value(0)
    return named(outputs, model.get_parameters())
