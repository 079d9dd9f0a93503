"""Backbones: networks that turn images into features.

To add a network of `keras.applications`, add its name to `params.KERAS_MODULES`. To add another
network, build it in `_backbone` below, and add its minimum image size to `params.MINIMUM_SIZE`. If
it has layers of a new type, add them to `model_contents.CLASSES`.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

from image_classifier.common.errors import InputError
from image_classifier.common.params import KERAS_APPLICATIONS, ModelParams
from image_classifier.networks import efficientnet_lite
from image_classifier.networks.tensorflow_setup import keras

GROUPS = 8  # of filters that are normalised together, or fewer
SMALLEST_GROUP = 4  # filters; one normalised by itself would not see the colour of a whole image


def build_feature_extractor(params: ModelParams, image_size: int, channels: int) -> keras.Model:
    """Build a network from pixels to features, including its preprocessing.

    It maps float32 (n, image_size, image_size, channels), values 0 to 255, to float32 (n, d).
    In a pretrained backbone, the top `params.fine_tune_layers` layers with weights are trainable.
    Batch normalisation always runs in inference mode, so its statistics do not change
    (https://keras.io/guides/transfer_learning).

    Raises:
        InputError: if the backbone's weights cannot be loaded.
    """
    pixels = keras.Input((image_size, image_size, channels), name="pixels")
    if params.backbone == "cnn":
        features = _cnn(pixels, params)
    else:
        backbone, preprocess = _backbone(params, pixels.shape[1:])
        _freeze(backbone, params.fine_tune_layers)
        features = backbone(preprocess(pixels), training=False)
        features = keras.layers.GlobalAveragePooling2D(name="average_pooling")(features)
    return keras.Model(pixels, features, name="feature_extractor")


def _cnn(pixels: keras.KerasTensor, params: ModelParams) -> keras.KerasTensor:
    """Two convolutions with pooling and normalisation, for images as small as 28x28.

    Group normalisation (Wu and He, https://arxiv.org/abs/1803.08494) allows large learning rates.
    Unlike batch normalisation it sees one image at a time, so that several workers train like one.
    """
    x = keras.layers.Rescaling(1 / 255, name="rescaling")(pixels)
    for number, filters in enumerate((params.conv1_filters, params.conv2_filters), start=1):
        x = keras.layers.Conv2D(filters, 5, padding="same", name=f"conv{number}")(x)
        # Pooled before the normalisation, which then costs a quarter.
        x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
        groups = math.gcd(GROUPS, filters // SMALLEST_GROUP) if filters % SMALLEST_GROUP == 0 else 1
        x = keras.layers.GroupNormalization(groups, name=f"normalisation{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    return keras.layers.Flatten(name="flatten")(x)


def _backbone(params: ModelParams, input_shape: tuple) -> tuple[keras.Model, Callable]:
    """A network without its top, and the function that preprocesses pixels for it."""
    if params.backbone in efficientnet_lite.VARIANTS:
        network = efficientnet_lite.build_efficientnet_lite(params.backbone, input_shape)
        if params.weights == "imagenet":
            efficientnet_lite.load_imagenet_weights(network)
        preprocess = efficientnet_lite.preprocess_input
    else:
        network = _keras_application(params.backbone, params.weights, input_shape)
        module = KERAS_APPLICATIONS[params.backbone].module
        preprocess = getattr(keras.applications, module).preprocess_input
    if params.weights not in ("imagenet", "random"):
        _load_weights_file(network, params.weights)
    return network, preprocess


def _keras_application(name: str, weights: str, input_shape: tuple) -> keras.Model:
    if KERAS_APPLICATIONS[name].module == "efficientnet" and weights not in ("imagenet", "random"):
        # With weights="imagenet", Keras builds these networks with an additional layer.
        raise InputError(
            f"model.weights: found {weights}; allowed with {name}: imagenet, random. If you are "
            "offline, put Keras's weights file into ~/.keras/models and use imagenet"
        )
    build = getattr(keras.applications, KERAS_APPLICATIONS[name].function)
    keras_weights = "imagenet" if weights == "imagenet" else None
    try:
        return build(include_top=False, weights=keras_weights, input_shape=input_shape)
    except Exception as error:  # Keras raises it if a download fails
        if weights != "imagenet":
            raise
        raise InputError(
            f"model.weights: the ImageNet weights of {name} could not be fetched ({error}); "
            "use a local weights file, or 'random'"
        ) from None


def _load_weights_file(network: keras.Model, weights: str) -> None:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"model.weights: {path} not found; allowed: imagenet, random, or a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # some unsuitable files only cause warnings
            network.load_weights(path)
    except Exception as error:  # Keras and HDF5 raise many types of error
        reason = " ".join(str(error).split())
        raise InputError(f"model.weights: {path} does not fit {network.name}: {reason}") from None


def _freeze(network: keras.Model, trained_layers: int) -> None:
    """Freeze all but the top `trained_layers` trainable layers."""
    candidates = []
    for layer in network.layers:
        layer.trainable = False
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            candidates.append(layer)
    if trained_layers > len(candidates):
        raise InputError(
            f"model.fine_tune_layers: found {trained_layers}; {network.name} has {len(candidates)}"
        )
    for layer in candidates[len(candidates) - trained_layers :]:
        layer.trainable = True
