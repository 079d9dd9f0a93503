"""Save the frozen backbone for the later stages, which then need not build it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from image_classifier.common.disk import enough_space
from image_classifier.common.images import Location, load_batches
from image_classifier.common.params import Params
from image_classifier.computing.prepared_network import (
    EXTRACTOR,
    KERAS_NETWORK,
    describe_network,
    write_record,
)

if TYPE_CHECKING:
    from image_classifier.networks.tensorflow_setup import keras

COMPARED_IMAGES = 16
# Features may differ as much as if each weight of the backbone changed at random by up to 0.4%. A
# GPU's rounding to TF32 is a tenth of that, float32's below a thousandth; the smallest fault in the
# tests, a wrong resize, is twice as much. See docs/reliability.md.
WEIGHT_CHANGE = 0.004


def write_network(
    params: Params, class_count: int, images: Sequence[Location], folder: Path
) -> None:
    """Write the files of `prepared_network` to a folder.

    Args:
        params: all parameters.
        class_count: the number of classes.
        images: some of them are used to compare Keras with OpenVINO.
        folder: for the files.

    Raises:
        InputError: if OpenVINO gives other numbers than Keras, or the disk has too little space.
    """
    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.computing.openvino_model import size_of, write_model
    from image_classifier.networks.classifier import build_classifier, build_model
    from image_classifier.networks.keras_file import save_keras
    from image_classifier.networks.translation import check_translation
    from image_classifier.preparation.features import build_network
    from image_classifier.preparation.inference import translated

    extractor = build_network(params)
    size, color_mode = params.prepare.image_size, params.prepare.color_mode
    (pixels,) = load_batches(images[:COMPARED_IMAGES], COMPARED_IMAGES, size, color_mode)
    features, tolerance = compare_features(extractor, pixels)
    model = translated(extractor)
    check_translation(model, "features", pixels, features, np.abs(features).max())
    with enough_space(folder / EXTRACTOR.name, size_of(model)):
        write_model(model, folder / EXTRACTOR.name)
    classifier = build_classifier(params.model, features.shape[1], class_count)
    save_keras(build_model(extractor, classifier), folder / KERAS_NETWORK.name, {})
    write_record(describe_network(params, tolerance), folder)


def compare_features(extractor: "keras.Model", pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Features of pixels, and how far they may be apart, relative to their norm.

    `pixels` are uint8 (n, image_size, image_size, channels), features float32 (n, d).
    """
    from image_classifier.networks.tensorflow_setup import in_float32

    weights, random = extractor.get_weights(), np.random.default_rng(0)
    change = partial(random.uniform, 1 - WEIGHT_CHANGE, 1 + WEIGHT_CHANGE)
    extractor.set_weights([(w * change(w.shape)).astype(w.dtype) for w in weights])
    with in_float32():
        changed = extractor(pixels, training=False).numpy()
        extractor.set_weights(weights)
        features = extractor(pixels, training=False).numpy()
    distance = np.linalg.norm(features - changed) / (np.linalg.norm(features) or 1)
    return features, float(f"{distance:.3g}")
