"""How the layers are put together: the network that is fitted, and the model that is saved."""

from functools import lru_cache
from typing import NamedTuple

from image_classifier.common.images import PILLOW_MODES
from image_classifier.common.params import ModelParams, Params
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.networks.augmentation import build_augmentation
from image_classifier.networks.backbones import build_feature_extractor


class Networks(NamedTuple):
    """Two networks that share their weights: what the one learns, the other knows."""

    fitted: keras.Model
    """Takes what is prepared, and gives logits, float32 (n, class_count).

    With a frozen backbone that is features, float32 (n, d), and the backbone is not run; otherwise
    it is pixels, and the network changes them at random while it trains.
    """

    model: keras.Model
    """Takes pixels, float32 (n, image_size, image_size, channels) with values 0 to 255, and gives
    probabilities, float32 (n, class_count)."""


def build_networks(params: Params, class_count: int) -> Networks:
    """Build a classifier on top of the backbone that `params.model` names.

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
        return Networks(classifier, model)
    augmentation = build_augmentation(params.prepare, channels)
    return Networks(keras.Model(pixels, classifier(extractor(augmentation(pixels)))), model)


def compile_network(network: keras.Model, params: Params) -> None:
    """Make a network that gives logits ready for `fit`: Adam, cross-entropy and top-1 accuracy."""
    network.compile(
        optimizer=keras.optimizers.Adam(params.train.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU XLA costs more than it gains
        # On features a step takes so little time that Python between the steps would hold it up.
        steps_per_execution=200 if params.model.frozen else 1,
    )


@lru_cache(maxsize=1)  # many trainings in one process, as in src/sweep.py, share it
def _frozen_extractor(
    params: ModelParams, image_size: int, channels: int, seed: int
) -> keras.Model:
    # A backbone with random weights must be the one that computed the features.
    keras.utils.set_random_seed(seed)
    return build_feature_extractor(params, image_size, channels)


def _build_classifier(params: Params, feature_count: int, class_count: int) -> keras.Sequential:
    layers = [
        keras.Input((feature_count,), name="features"),
        keras.layers.Dropout(params.train.dropout, name="dropout"),
    ]
    if params.model.backbone == "cnn":
        units = params.model.dense_units
        layers.append(keras.layers.Dense(units, activation="relu", name="dense"))
    layers.append(keras.layers.Dense(class_count, name="logits"))
    return keras.Sequential(layers, name="classifier")
