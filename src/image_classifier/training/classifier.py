"""Build the network that is fitted and the model that is saved."""

from functools import lru_cache
from typing import NamedTuple

from image_classifier.common.images import PILLOW_MODES
from image_classifier.common.params import ModelParams, Params
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.networks.augmentation import build_augmentation
from image_classifier.networks.backbones import build_feature_extractor
from image_classifier.training.optimization import FittedNetwork


class Networks(NamedTuple):
    """Two networks that share their weights."""

    fitted: FittedNetwork
    """From prepared images to logits, float32 (n, class_count).

    With a frozen backbone its inputs are features, float32 (n, d), and the backbone is not run;
    otherwise they are pixels, which the network augments during training.
    """

    model: keras.Model
    """From pixels, float32 (n, image_size, image_size, channels) with values 0 to 255, to
    probabilities, float32 (n, class_count)."""


def build_networks(params: Params, class_count: int) -> Networks:
    """Build a classifier on top of the backbone `params.model.backbone`.

    Raises:
        InputError: if the backbone's weights cannot be loaded.
    """
    image_size, channels = params.prepare.image_size, len(PILLOW_MODES[params.prepare.color_mode])
    if params.model.frozen:
        extractor = _frozen_extractor(params.model, image_size, channels, params.prepare.seed)
        keras.utils.set_random_seed(params.train.seed)
    else:
        extractor = build_feature_extractor(params.model, image_size, channels)
    classifier = _build_classifier(params, extractor.output_shape[-1], class_count)
    pixels = keras.Input((image_size, image_size, channels), name="pixels")
    probabilities = keras.layers.Softmax(name="probabilities")(classifier(extractor(pixels)))
    model = keras.Model(pixels, probabilities, name="image_classifier")
    if params.model.frozen:
        # Not the classifier itself: the model file would contain how it was compiled.
        return Networks(FittedNetwork(classifier.input, classifier.output), model)
    augmentation = build_augmentation(params.prepare, channels)
    return Networks(FittedNetwork(pixels, classifier(extractor(augmentation(pixels)))), model)


@lru_cache(maxsize=1)  # shared by all trainings of a process, as in src/sweep.py
def _frozen_extractor(
    params: ModelParams, image_size: int, channels: int, seed: int
) -> keras.Model:
    # A backbone with random weights must be identical to the one that computed the features.
    keras.utils.set_random_seed(seed)
    return build_feature_extractor(params, image_size, channels)


def _build_classifier(params: Params, feature_count: int, class_count: int) -> keras.Sequential:
    layers = [keras.Input((feature_count,), name="features")]
    if params.model.backbone == "cnn":
        # Thousands of features: without it, a step at a large learning rate ends the training.
        layers.append(keras.layers.Rescaling(feature_count**-0.5, name="scaling"))
    layers.append(keras.layers.Dropout(params.train.dropout, name="dropout"))
    if params.model.backbone == "cnn":
        units = params.model.dense_units
        layers.append(keras.layers.Dense(units, activation="relu", name="dense"))
    layers.append(keras.layers.Dense(class_count, name="logits"))
    return keras.Sequential(layers, name="classifier")
