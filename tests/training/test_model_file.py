"""The fitted network, the saved model, and the model file."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers.models import CLASS_NAMES, TRAINED_ON, params_with, save_network, whole_network
from image_classifier.common.errors import InputError
from image_classifier.common.params import Params
from image_classifier.evaluation.steps import predict_probabilities
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.networks.translation import translate_model
from image_classifier.outputs.metadata import describe_training
from image_classifier.training.classifier import build_networks
from image_classifier.training.model_file import load_model
from image_classifier.training.optimization import compile_network


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "model", [{"backbone": "cnn"}, {"backbone": "mobilenet_v2", "fine_tune_layers": 2}]
)
def test_fitting_to_pixels_changes_the_saved_model(model: dict, pixels: np.ndarray):
    params, labels = params_with(**model), np.array([0, 1, 2, 0, 1])
    networks = build_networks(params, feature_count=0, class_count=3)
    before = networks.model.predict(pixels, verbose=0)
    compile_network(networks.fitted, params, labels)
    networks.fitted.fit(pixels, labels, epochs=2, verbose=0)  # the rate of the first step is 0
    after = networks.model.predict(pixels, verbose=0)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-5)
    logits = networks.fitted.predict(pixels, verbose=0)
    np.testing.assert_allclose(keras.ops.softmax(logits), after, rtol=1e-4, atol=1e-6)


def test_a_frozen_backbone_is_not_built_to_fit_its_features():
    networks = build_networks(params_with(backbone="mobilenet_v2"), 1280, class_count=3)
    assert networks.fitted.input_shape == (None, 1280) and networks.model is None
    assert [layer.name for layer in networks.fitted.layers] == ["features", "dropout", "classifier"]


def test_augmentation_changes_training_only(pixels: np.ndarray):
    network = build_networks(params_with(backbone="cnn"), feature_count=0, class_count=3).fitted
    images = pixels.astype(np.float32)
    inference = [np.asarray(network(images, training=False)) for _ in range(2)]
    assert (inference[0] == inference[1]).all()
    augmentation = network.get_layer("augmentation")
    augmented = [np.asarray(augmentation(images, training=True)) for _ in range(2)]
    assert (augmented[0] != augmented[1]).any()
    assert np.asarray(augmentation(images, training=False) == images).all()


def test_arrays_of_the_wrong_shape_are_named():
    model = translate_model(whole_network(params_with(backbone="cnn"), class_count=3))
    for views in (np.zeros((1, 4, 20, 20, 3), np.uint8), np.zeros((1, 4, 5), np.float32)):
        with pytest.raises(InputError, match="data/prepared: found arrays of shape"):
            predict_probabilities(model, views)


def test_a_saved_model_predicts_the_same_and_has_metadata(tmp_path: Path, pixels: np.ndarray):
    path = tmp_path / "model.keras"
    model = save_network(path, backbone="mobilenet_v2")
    loaded, class_names, trained_on = load_model(path)
    assert class_names == CLASS_NAMES
    assert trained_on == TRAINED_ON
    np.testing.assert_array_equal(loaded.predict(pixels), model.predict(pixels))
    assert list(tmp_path.iterdir()) == [path]


def test_the_model_file_contains_nothing_about_the_machine(tmp_path: Path):
    table = tmp_path / "images.csv"
    table.write_text("path,class,split,sha256\n")
    params = params_with(backbone="mobilenet_v2", fine_tune_layers=3).model_dump()
    params["download"].update(dataset="image_folder", source="/home/someone/images")
    params["model"].update(weights="/home/someone/weights.h5")
    trained_on = describe_training(Params.model_validate(params), table, 60, 2, 0.123456789)
    assert "someone" not in str(trained_on)
    assert trained_on.weights == "weights.h5" and trained_on.fine_tune_layers == 3
    assert trained_on.validation_accuracy == 0.123457
    assert trained_on.augmentation == TRAINED_ON.augmentation
    params["model"].update(backbone="cnn")
    trained_on = describe_training(Params.model_validate(params), table, 60, 2, 0.5)
    assert (trained_on.weights, trained_on.fine_tune_layers) == ("random", 0)


def test_files_that_are_not_models_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"not found; `dvc exp run` or src/train\.py creates it$"):
        load_model(tmp_path / "nowhere.keras")
    with pytest.raises(InputError, match="is not a model of this repository"):
        load_model(tmp_path)
    (tmp_path / "text.keras").write_text("no model")
    for name, metadata in {"other.keras": "{}", "old.keras": '{"class_names": ["a"]}'}.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("metadata.json", metadata)
    for name in ("text.keras", "other.keras", "old.keras"):
        with pytest.raises(InputError, match="is not a model of this repository"):
            load_model(tmp_path / name)


def test_a_damaged_model_is_named(tmp_path: Path):
    path = tmp_path / "model.keras"
    save_network(path, backbone="cnn")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.keras is damaged: Bad CRC-32"):
        load_model(path)
