"""Random changes to training images: their size, their independence, and that they repeat."""

from collections.abc import Callable

import numpy as np
import pytest

from helpers.models import params_with
from image_classifier.common.params import AUGMENTATION
from image_classifier.networks.augmentation import build_augmentation, set_call
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.training.checkpoint import state_variables
from image_classifier.training.classifier import build_networks
from image_classifier.training.distribution import RANDOM_LAYERS
from image_classifier.training.optimization import compile_network

SIZE = 33
CENTER = SIZE // 2
COUNT = 400
STRENGTH = 0.25
ALL = {"horizontal_flip": True, **dict.fromkeys(AUGMENTATION[1:], STRENGTH)}
# Brightness that grows to the right in channel 0, and downwards in channel 1, by 2 each pixel.
STEP = 2.0
RAMP = np.full((SIZE, SIZE), 128.0, np.float32) + STEP * (
    np.arange(SIZE, dtype=np.float32) - CENTER
)
RAMPS = np.repeat(np.stack([RAMP, RAMP.T], axis=-1)[np.newaxis], COUNT, axis=0)


def augmentation(channels: int = 2, **changes: object) -> keras.Sequential:
    params = params_with(backbone="cnn").prepare
    unchanged = dict.fromkeys(AUGMENTATION, 0.0)
    update = {**unchanged, "image_size": SIZE, **changes}
    return build_augmentation(params.model_copy(update=update), channels)


def applied(network: keras.Sequential, images: np.ndarray, call: int | None = None) -> np.ndarray:
    """The augmented images, of this call or of the next one."""
    if call is not None:
        set_call(network, call)
    return np.asarray(network(images, training=True))


def slope(images: np.ndarray, channel: int, axis: int) -> np.ndarray:
    """Growth per pixel, relative to that of `RAMPS`, at the centre of each image."""
    near = [
        images[:, CENTER, CENTER + d] if axis == 1 else images[:, CENTER + d, CENTER]
        for d in (-1, 1)
    ]
    return (near[1] - near[0])[:, channel] / (2 * STEP)


def shift(images: np.ndarray, channel: int) -> np.ndarray:
    """How far the centre of each image has moved, as a fraction of the size."""
    return (128 - images[:, CENTER, CENTER, channel]) / (STEP * SIZE)


# Parameter -> what it changes in `RAMPS`, measured in each image, and the limits of that.
MEASURES: dict[str, list[tuple[Callable[[np.ndarray], np.ndarray], float, float]]] = {
    "horizontal_flip": [(lambda images: slope(images, channel=0, axis=1), -1, 1)],
    "rotation": [
        (
            lambda images: np.arctan2(slope(images, 1, 1), slope(images, 0, 1)) / (2 * np.pi),
            -STRENGTH,
            STRENGTH,
        )
    ],
    "zoom": [
        (lambda images: slope(images, 0, 1), 1 - STRENGTH, 1 + STRENGTH),
    ],
    "translation": [
        (lambda images: shift(images, 0), -STRENGTH, STRENGTH),
        (lambda images: shift(images, 1), -STRENGTH, STRENGTH),
    ],
    "brightness": [
        (lambda images: images[:, CENTER, CENTER, 0] / 255 - 128 / 255, -STRENGTH, STRENGTH)
    ],
    "contrast": [(lambda images: slope(images, 0, 1), 1 - STRENGTH, 1 + STRENGTH)],
}


@pytest.mark.parametrize("name", AUGMENTATION)
def test_each_image_changes_within_the_documented_limits(name: str):
    network = augmentation(**{name: ALL[name]})
    images = applied(network, RAMPS)
    assert images.dtype == np.float32 and images.shape == RAMPS.shape
    for measure, low, high in MEASURES[name]:
        found = measure(images)
        margin = 0.02 * (high - low)  # a uniform sample of 400 misses this much once in 3,000 times
        assert low - 1e-5 <= found.min() < low + margin, name
        assert high - margin < found.max() <= high + 1e-5, name
    if name == "horizontal_flip":
        assert set(np.unique(found)) == {-1, 1}
    else:
        assert len(np.unique(images.reshape(COUNT, -1), axis=0)) > 0.95 * COUNT
    if name == "zoom":  # keeps the aspect ratio
        np.testing.assert_allclose(slope(images, 0, 1), slope(images, 1, 0), atol=1e-5)
    np.testing.assert_array_equal(network(RAMPS, training=False), RAMPS)


def test_samples_are_independent():
    """Those of different calls, of different parameters, and of shifts in both directions."""
    samples = []
    for name in AUGMENTATION:
        network = augmentation(**{name: ALL[name]})
        for call in (0, 1):
            images = applied(network, RAMPS, call)
            samples += [measure(images) for measure, _, _ in MEASURES[name]]
    correlations = np.abs(np.corrcoef(samples)) - np.eye(len(samples))
    assert len(samples) == 14 and correlations.max() < 0.25  # 5 standard deviations


def test_a_call_depends_on_its_number_and_not_on_the_calls_before():
    images = noise(8)
    network = augmentation(channels=3, **ALL)
    expected = [applied(network, images, call) for call in (5, 6)]
    assert (expected[0] != expected[1]).any(axis=(1, 2, 3)).all()
    applied(network, images[:3], 1)
    applied(network, images)
    np.testing.assert_array_equal(applied(network, images, 5), expected[0])
    # The call after it, as in a training, is the next one: no number of a sample is used twice.
    np.testing.assert_array_equal(applied(network, images), expected[1])
    again = augmentation(channels=3, **ALL)
    np.testing.assert_array_equal(applied(again, images, 6), expected[1])


def test_an_image_does_not_depend_on_the_others_in_its_batch():
    images = noise(8)
    network = augmentation(channels=3, **ALL)
    expected = applied(network, images, 3)
    assert expected.min() >= 0 and expected.max() <= 255
    padded = np.concatenate([images[:5], np.zeros((9, SIZE, SIZE, 3), np.float32)])
    for batch in (images[:5], padded):
        np.testing.assert_allclose(applied(network, batch, 3)[:5], expected[:5], atol=1e-3)


@pytest.mark.parametrize("count", [5, 2])
def test_images_are_unchanged_without_augmentation(count: int):
    network, images = augmentation(channels=3), noise(count)
    np.testing.assert_array_equal(applied(network, images), images)


def test_a_training_saves_and_distributes_the_state_of_each_layer():
    params = params_with(backbone="cnn")
    params = params.model_copy(update={"prepare": params.prepare.model_copy(update=ALL)})
    network = build_networks(params, feature_count=0, class_count=3).fitted
    compile_network(network, params, labels=np.arange(3))
    identity, *layers = network.get_layer("augmentation").layers
    assert isinstance(identity, keras.layers.Identity) and len(layers) == len(AUGMENTATION)
    assert len({layer.seed for layer in layers}) == len(layers)
    saved = {id(variable) for variable in state_variables(network)}
    for layer in layers:
        assert id(layer.generator.state) in saved
        assert isinstance(layer, RANDOM_LAYERS)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.float32)
