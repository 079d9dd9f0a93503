"""Build the network that is fitted and the model that is saved."""

from typing import NamedTuple

from image_classifier.common.images import PILLOW_MODES
from image_classifier.common.params import Params
from image_classifier.networks.augmentation import build_augmentation
from image_classifier.networks.backbones import build_feature_extractor
from image_classifier.networks.classifier import build_classifier, build_model
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.training.optimization import Dropout, FittedNetwork


class Networks(NamedTuple):
    """Two networks that share their weights."""

    fitted: FittedNetwork
    """From prepared images to logits, float32 (n, class_count).

    With a frozen backbone its inputs are features, float32 (n, d), and the backbone is not run;
    otherwise they are pixels, which the network augments during training.
    """

    model: keras.Model | None
    """From pixels, float32 (n, image_size, image_size, channels) with values 0 to 255, to
    probabilities, float32 (n, class_count). None with a frozen backbone, which `prepare` has
    built and saved."""


def build_networks(params: Params, feature_count: int, class_count: int) -> Networks:
    """Build a classifier on top of the backbone `params.model.backbone`.

    `feature_count` is that of a frozen backbone.

    Raises:
        InputError: if the backbone's weights cannot be loaded.
    """
    extractor = None
    image_size, channels = params.prepare.image_size, len(PILLOW_MODES[params.prepare.color_mode])
    if not params.model.frozen:
        extractor = build_feature_extractor(params.model, image_size, channels)
        feature_count = extractor.output_shape[-1]
    dropout = Dropout(params.train.dropout, name="dropout")
    classifier = build_classifier(params.model, feature_count, class_count)
    if extractor is None:
        features = keras.Input((feature_count,), name="features")
        return Networks(FittedNetwork(features, classifier(dropout(features))), None)
    augmentation = build_augmentation(params.prepare, channels)
    pixels = keras.Input((image_size, image_size, channels), name="pixels")
    logits = classifier(dropout(extractor(augmentation(pixels))))
    return Networks(FittedNetwork(pixels, logits), build_model(extractor, classifier))
