"""Features computed as on a GPU, which is imitated, equal those of the CPU in any groups."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from helpers.images import write_image
from helpers.models import params_with
from image_classifier.common.params import AUGMENTATION, PrepareParams
from image_classifier.networks.tensorflow_setup import keras, tf
from image_classifier.preparation import extraction, features
from image_classifier.preparation.extraction import Extract, build_on_cpu, build_on_gpu

SIZE = 16
VIEWS = 2
FIRST = 3  # number of the first batch


@pytest.fixture(scope="module")
def params() -> PrepareParams:
    """Parameters with every kind of augmentation."""
    changes = {"horizontal_flip": True, **dict.fromkeys(AUGMENTATION[1:], 0.2), "image_size": SIZE}
    return params_with(backbone="cnn").prepare.model_copy(update=changes)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Four batches and a part of one."""
    count = 4 * features.FEATURE_BATCH_SIZE + 9
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


def build_network(check: Callable[[np.ndarray], np.ndarray] | None = None) -> keras.Model:
    """A small network, which calls `check` with each batch that it computes."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((SIZE, SIZE, 3))
    if check:
        call = keras.layers.Lambda(
            lambda x: tf.ensure_shape(tf.numpy_function(check, [x], tf.float32), x.shape)
        )
        x = call(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x / 255.0)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def groups_of(pixels: np.ndarray, batches: int) -> Iterator[np.ndarray]:
    size = batches * features.FEATURE_BATCH_SIZE
    for start in range(0, len(pixels), size):
        yield from features._groups(pixels[start : start + size])


def extracted(
    extract: Extract, pixels: np.ndarray, batches: int, views: int | None = VIEWS
) -> np.ndarray:
    """The features of all pixels, passed in groups of so many batches."""
    return np.concatenate(list(extract(groups_of(pixels, batches), FIRST, views)), axis=1)


@pytest.fixture(scope="module")
def expected(params: PrepareParams, pixels: np.ndarray) -> np.ndarray:
    return extracted(build_on_cpu(build_network(), params, threads=2), pixels, batches=1)


@pytest.mark.parametrize("batches", [1, 3, 8])
def test_a_gpu_gives_the_features_of_a_cpu(
    params: PrepareParams, pixels: np.ndarray, expected: np.ndarray, batches: int
):
    on_gpu = build_on_gpu(build_network(), params)
    found = extracted(on_gpu, pixels, batches)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_a_gpu_gives_the_features_of_unchanged_images(params: PrepareParams, pixels: np.ndarray):
    network = build_network()
    found = extracted(build_on_gpu(network, params), pixels, 2, views=None)
    (same,) = extracted(build_on_cpu(network, params, threads=2), pixels, 1, views=None)
    np.testing.assert_allclose(found, same[np.newaxis], rtol=1e-4, atol=1e-5 * same.max())


def test_groups_that_do_not_fit_into_memory_are_divided(
    params: PrepareParams, pixels: np.ndarray, expected: np.ndarray
):
    sizes = []

    def check(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        if len(images) > 2 * features.FEATURE_BATCH_SIZE:
            raise MemoryError  # which TensorFlow reports as its ResourceExhaustedError
        return images

    found = extracted(build_on_gpu(build_network(check), params), pixels, batches=4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    # The size that fits is remembered for the second view.
    assert sizes == [256, 128, 128, 128, 128, 9, 9]


def test_a_batch_that_does_not_fit_into_memory_is_an_error(
    params: PrepareParams, pixels: np.ndarray
):
    def check(images: np.ndarray) -> np.ndarray:
        raise MemoryError

    with pytest.raises(tf.errors.ResourceExhaustedError):
        extracted(build_on_gpu(build_network(check), params), pixels, batches=4)


def test_a_gpu_has_the_next_group_before_results_are_read(
    params: PrepareParams, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    events = []

    def check(images: np.ndarray) -> np.ndarray:
        events.append("run")
        return images

    read = extraction._read

    def record(views: list[list[tf.Tensor]]) -> np.ndarray:
        events.append("read")
        return read(views)

    monkeypatch.setattr(extraction, "_read", record)
    extracted(build_on_gpu(build_network(check), params), pixels[:256], batches=1, views=None)
    assert events == ["run", "run", "read", "run", "read", "run", "read", "read"]


def test_prepare_uses_a_gpu_if_there_is_one(
    tmp_path, params: PrepareParams, monkeypatch: pytest.MonkeyPatch
):
    paths = [tmp_path / f"{number}.png" for number in range(70)]
    for number, path in enumerate(paths):
        write_image(path, (90, 120, 150), number)
    whole = params_with(backbone="cnn").model_copy(update={"prepare": params})
    monkeypatch.setattr(features, "build_network", lambda _: build_network())

    def compute() -> np.ndarray:
        features._build_extractor.cache_clear()
        parts = features.compute_features(whole, "train", None, list(map(str, paths)), 0, 2)
        firsts, values = zip(*parts, strict=True)
        assert firsts == (0, features.FEATURE_BATCH_SIZE)
        return np.concatenate(values, axis=1)

    on_cpu = compute()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"a {kind}"])
    monkeypatch.setattr(extraction, "build_on_cpu", None)
    on_gpu = compute()
    features._build_extractor.cache_clear()
    assert on_cpu.shape == (params.views, len(paths), 8)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-5 * on_cpu.max())
