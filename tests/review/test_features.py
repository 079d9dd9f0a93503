"""Features of all prepared images, from their features or from a model."""

from pathlib import Path

import numpy as np
import pytest

from helpers.made_prepared import write_prepared
from helpers.models import save_network
from image_classifier.common.errors import InputError
from image_classifier.computing import prepared
from image_classifier.computing.prepared import SPLITS, ImageRecord, open_splits
from image_classifier.outputs.openvino_file import OPENVINO_FILE
from image_classifier.review import features
from image_classifier.review.features import read_features, reduce

CLASS_NAMES = ["bird", "cat", "dog"]
COUNTS = {"train": 9, "validation": 5, "test": 4}

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty folder, and compute the features of a few images at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "IMAGES_AT_ONCE", 4)


def write(arrays: dict[str, np.ndarray], class_names: list[str] = CLASS_NAMES) -> None:
    records = [
        ImageRecord(f"{split}/{row}.png", class_names[row % len(class_names)], split, f"{row}")
        for split in SPLITS
        for row in range(arrays[split].shape[1])
    ]
    write_prepared(records, arrays)


def write_features(size: int = 6, offset: float = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {
        split: (offset + generator.normal(size=(3 if split == "train" else 1, count, size)))
        for split, count in COUNTS.items()
    }
    arrays = {split: values.astype(np.float32) for split, values in arrays.items()}
    write(arrays)
    return arrays


def write_pixels(image_size: int = 32) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {split: (1, count, image_size, image_size, 3) for split, count in COUNTS.items()}
    arrays = {split: generator.integers(0, 256, shape, np.uint8) for split, shape in shapes.items()}
    write(arrays)
    return arrays


def read() -> np.ndarray:
    class_names, splits = open_splits(*SPLITS)
    return read_features(splits, class_names)


@pytest.mark.parametrize("shard_bytes", [2**30, 100], ids=["one file", "several files"])
def test_prepared_features_are_averaged_over_the_views(
    monkeypatch: pytest.MonkeyPatch, shard_bytes: int
):
    monkeypatch.setattr(prepared, "SHARD_BYTES", shard_bytes)
    arrays = write_features()
    expected = np.concatenate([arrays[split].mean(axis=0) for split in SPLITS])
    found = read()
    assert found.dtype == np.float32
    assert found == pytest.approx(expected - expected.mean(axis=0), abs=1e-6)


def test_large_features_that_hardly_differ_are_centred():
    write_features(offset=10_000)
    assert read().mean(axis=0) == pytest.approx(0, abs=1e-4)


def test_longer_features_are_projected(monkeypatch: pytest.MonkeyPatch):
    write_features(size=3000)
    whole = read()
    monkeypatch.setattr(features, "MAX_FEATURES", 1000)
    shorter = read()
    assert shorter.shape == (18, 1000) and shorter.dtype == np.float32
    assert np.array_equal(shorter, read())

    def distances(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows[:, np.newaxis] - rows, axis=2)

    assert distances(shorter) == pytest.approx(distances(whole), rel=0.15)


def test_a_trained_network_computes_features_from_pixels():
    arrays = write_pixels()
    OPENVINO_FILE.parent.mkdir(parents=True)
    network = save_network(
        OPENVINO_FILE, CLASS_NAMES, backbone="cnn", conv1_filters=4, conv2_filters=4
    )
    extractor = network.get_layer("feature_extractor")
    expected = np.concatenate([extractor.predict(arrays[split][0], verbose=0) for split in SPLITS])
    found = read()
    assert found.dtype == np.float32
    assert found == pytest.approx(expected - expected.mean(axis=0), abs=1e-4)


WRONG = "one-line error that says what to do"


@pytest.mark.fault("Data", "review of pixels without a trained model", WRONG)
def test_a_missing_model_is_an_error():
    write_pixels()
    with pytest.raises(InputError, match=r"^models/openvino/model\.xml not found") as error:
        read()
    assert "\n" not in str(error.value)


@pytest.mark.fault("Data", "review with a model of other classes or other images", WRONG)
@pytest.mark.parametrize(
    ("class_names", "image_size", "message"),
    [
        (
            ["ant", "bee", "cat"],
            32,
            r"^models/openvino/model\.xml: trained on other classes than those",
        ),
        (CLASS_NAMES[:2], 32, r"^models/openvino/model\.xml: trained on other classes than those"),
        (CLASS_NAMES, 24, r"^data/prepared: found arrays of shape \(24, 24, 3\) per image, but"),
    ],
)
def test_a_model_of_other_data_is_an_error(class_names: list[str], image_size: int, message: str):
    write(write_pixels(image_size), class_names)
    OPENVINO_FILE.parent.mkdir(parents=True)
    save_network(OPENVINO_FILE, CLASS_NAMES, backbone="cnn", conv1_filters=4, conv2_filters=4)
    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [4, 280])
def test_principal_components_keep_the_distances(count: int, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).normal(size=(count, 300)) * np.linspace(1, 0, 300) ** 4
    values = 1000 * (values - values.mean(axis=0)).astype(np.float32)
    components = reduce(values)
    assert components.shape == (count, min(256, count)) and components.dtype == np.float32
    assert np.mean(np.sum(components**2, axis=1)) == pytest.approx(1, abs=1e-4)
    assert np.array_equal(components, reduce(values.copy()))
    factors = np.linalg.norm(values, axis=1) / np.linalg.norm(components, axis=1)
    assert factors == pytest.approx(factors[0], rel=1e-3)
    monkeypatch.setattr(features, "SAMPLE", 100)  # they are learned from fewer images
    assert reduce(values).shape == (count, min(100, count))


@pytest.mark.filterwarnings("error")
def test_equal_images_have_features_of_0():
    assert not reduce(np.zeros((20, 5), np.float32)).any()
    write({split: np.full((1, count, 4), 3.3, np.float32) for split, count in COUNTS.items()})
    assert not read().any()
