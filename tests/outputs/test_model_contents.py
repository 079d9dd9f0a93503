"""Malicious model files: each is refused, and nothing in it is executed."""

import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import pytest
from PIL import Image

from helpers import attacks
from helpers.attacks import REFUSED, refused
from helpers.models import CLASS_NAMES, TRAINED_ON, params_with, save_network, whole_network
from helpers.project import REPOSITORY, run_python
from image_classifier.common.errors import InputError
from image_classifier.common.params import MINIMUM_SIZE
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.outputs.model_contents import check_config
from image_classifier.training.model_file import load_model

# One network of each kind, except kinds that take long to build.
SMALLEST = [
    "cnn",
    "efficientnet_lite0",
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "inception_v3"),
    *("mobilenet", "mobilenet_v2", "mobilenet_v3_small", "resnet50", "resnet50_v2", "vgg16"),
    "xception",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_network(path, backbone="cnn")
    return path


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Copy a model file, changing its members with `change`."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def with_layer(source: Path, target: Path, layer: dict) -> Path:
    """Copy a model file, replacing its last layer."""

    def change(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        config["config"]["layers"][-1] |= layer
        members["config.json"] = json.dumps(config).encode()

    return rewritten(source, target, change)


def with_weights(source: Path, target: Path, change: Callable[[h5py.File, str], None]) -> Path:
    """Copy a model file, replacing an array of its weights with `change`, which gets its name."""

    def change_member(members: dict[str, bytes]) -> None:
        content = io.BytesIO(members["model.weights.h5"])
        attacks.change_weights(content, change)
        members["model.weights.h5"] = content.getvalue()

    return rewritten(source, target, change_member)


def layer(module: str | None, name: str, registered_name: str | None = None, /, **config) -> dict:
    """The configuration of a layer."""
    return {
        "module": module,
        "class_name": name,
        "registered_name": registered_name,
        "config": {"name": "probabilities", **config},
    }


keras_layer = partial(layer, "keras.layers")


def calling(module: str, name: str) -> dict:
    function = {"class_name": "function", "module": module, "config": name, "registered_name": name}
    return keras_layer("Activation", activation=function)


def lambda_layer(marker: Path) -> dict:
    """A layer with marshalled code that makes a folder when called."""
    made = keras.layers.Lambda(attacks.code_that_makes(marker), name="probabilities")
    return keras.saving.serialize_keras_object(made)


def harmful(what: str, *values: object) -> object:
    return refused(f"model file: {what}", *values)


def test_the_code_of_these_tests_would_run_without_safe_mode(model_file: Path, tmp_path: Path):
    path = with_layer(model_file, tmp_path / "m.keras", lambda_layer(tmp_path / "executed"))
    keras.models.load_model(path, compile=False, safe_mode=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.fault(
    "Security", "model file: a Lambda layer with code, given to `predict.py`", REFUSED
)
def test_predict_executes_no_code_of_a_model_file(model_file: Path, tmp_path: Path):
    path = with_layer(model_file, tmp_path / "m.keras", lambda_layer(tmp_path / "executed"))
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    arguments = (REPOSITORY / "src/predict.py", "image.png", "--model", path)
    done = run_python(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {path} is not a model of this repository: "
        "its config.json names keras.layers.Lambda, which no network here uses"
    ]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "attack",
    [
        harmful("names `os.system`", calling("os", "system")),
        harmful("names `builtins.exec`", calling("builtins", "exec")),
        harmful("names `subprocess.Popen`", layer("subprocess", "Popen", args="id")),
        harmful("names a function of Keras that fetches files", calling("keras.utils", "get_file")),
        harmful(
            "turns Keras' safe mode off",
            calling("keras.config", "enable_unsafe_deserialization"),
        ),
        harmful("names any module of Keras", calling("keras.src.utils.python_utils", "func_load")),
        harmful(
            "a layer that runs another TensorFlow program",
            keras_layer("TFSMLayer", filepath="/tmp", call_endpoint="serve"),
        ),
        harmful(
            "a layer that reads another file",
            keras_layer("StringLookup", vocabulary="/etc/passwd"),
        ),
        harmful("a layer that unpickles", keras_layer("TorchModuleWrapper", module="gASVAA==")),
        harmful("Keras' old form, without a module", layer(None, "Lambda", function="f")),
        harmful("another class behind a registered name", keras_layer("Softmax", "package>Other")),
        harmful(
            "a function among the settings of training",
            {"compile_config": {"optimizer": "adam", "loss": calling("os", "system")}},
        ),
        harmful("an invalid class name", {"class_name": ["Lambda"], "module": {"a": 1}}),
    ],
)
def test_a_model_file_may_name_only_known_classes(model_file: Path, tmp_path: Path, attack: dict):
    path = with_layer(model_file, tmp_path / "m.keras", attack)
    with pytest.raises(InputError, match=r"its config\.json names .* which no network here uses$"):
        load_model(path)


def soft_link(weights: h5py.File, name: str) -> None:
    del weights[name]
    weights[name] = h5py.SoftLink("/elsewhere")


def virtual_array(weights: h5py.File, name: str) -> None:
    shape, dtype = weights[name].shape, weights[name].dtype
    del weights[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "secret", shape)
    weights.create_virtual_dataset(name, layout)


def huge_array(weights: h5py.File, name: str) -> None:
    del weights[name]
    # Keras itself refuses only 4 GiB or more.
    weights.create_dataset(name, (2**29,), "f4", chunks=(2**20,), compression="gzip")


def array_of_references(weights: h5py.File, name: str) -> None:
    del weights[name]
    weights.create_dataset(name, (1,), h5py.ref_dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        harmful("weights in another file", attacks.external_array, "external Dataset"),
        harmful("weights behind a link", attacks.external_link, "ExternalLink"),
        harmful("a link among its weights", soft_link, "SoftLink"),
        harmful("weights put together elsewhere", virtual_array, "virtual Dataset"),
        harmful("2 MB that declare weights of 2 GiB", huge_array, "would take 2,149,"),
        harmful("weights that are not numbers", array_of_references, ""),
    ],
)
def test_weights_must_be_numbers_in_the_file_itself(
    model_file: Path, tmp_path: Path, change: Callable, message: str
):
    path = with_weights(model_file, tmp_path / "m.keras", change)
    with pytest.raises(InputError, match=rf"m\.keras is damaged: .*{message}") as caught:
        load_model(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        harmful("a member outside its folder", "../../evil"),
        harmful("a member with an absolute path", "/tmp/evil"),
        harmful("assets", "assets/layers/evil"),
        harmful("arrays that may hold pickles", "model.weights.npz"),
    ],
)
def test_other_members_of_a_model_file_are_refused(model_file: Path, tmp_path: Path, name: str):
    path = rewritten(model_file, tmp_path / "m.keras", lambda members: members.update({name: b""}))
    with pytest.raises(InputError, match=f"its member '{name}'"):
        load_model(path)


@pytest.mark.fault(
    "Security", "model file: a configuration that unpacks to 100 times its size", REFUSED
)
def test_a_compressed_model_file_is_refused(model_file: Path, tmp_path: Path):
    with (
        zipfile.ZipFile(model_file) as source,
        zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        target.writestr("metadata.json", source.read("metadata.json"))
        target.writestr("config.json", b" " * 10_000_000 + source.read("config.json"))
    with pytest.raises(InputError, match=r"member 'metadata\.json' is unknown or compressed"):
        load_model(tmp_path / "m.keras")


@pytest.mark.fault("Security", "model file: the old HDF5 format with a Lambda layer", REFUSED)
def test_the_old_format_is_refused(tmp_path: Path):
    marker = tmp_path / "executed"
    last = keras.saving.deserialize_keras_object(lambda_layer(marker), safe_mode=False)
    keras.Sequential([keras.Input((2,)), last]).save(tmp_path / "m.h5")
    marker.rmdir()  # made while the network was built
    path = (tmp_path / "m.h5").rename(tmp_path / "m.keras")
    with pytest.raises(InputError, match="is not a model of this repository: File is not a zip"):
        load_model(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": "cat"}, "is not a model of this repository"),
        ({"class_names": [1, 2, 3]}, "is not a model of this repository"),
        ({"trained_on": {"image_size": 1}}, "is not a model of this repository"),
        ({"class_names": ["cat", "dog"]}, "does not match its metadata"),
        ({"trained_on": TRAINED_ON._asdict() | {"image_size": 9}}, "does not match its metadata"),
        ({"trained_on": TRAINED_ON._asdict() | {"color_mode": "cmyk"}}, "damaged: 'cmyk'"),
    ],
    ids=["no list", "no names", "values missing", "a name missing", "another size", "no colours"],
)
@pytest.mark.fault(
    "Security", "model file: metadata that contradict its network", "refused with a one-line error"
)
def test_metadata_that_contradict_the_network_are_refused(
    model_file: Path, tmp_path: Path, changes: dict, message: str
):
    def change(members: dict[str, bytes]) -> None:
        metadata = json.loads(members["metadata.json"])
        members["metadata.json"] = json.dumps(metadata | changes).encode()

    with pytest.raises(InputError, match=message):
        load_model(rewritten(model_file, tmp_path / "m.keras", change))


def test_an_unchanged_rewritten_file_is_accepted(model_file: Path, tmp_path: Path):
    # Otherwise the tests above might pass only because the file was rewritten.
    path = with_weights(model_file, tmp_path / "m.keras", lambda weights, name: None)
    path = with_layer(path, tmp_path / "n.keras", {})
    assert load_model(path).class_names == CLASS_NAMES


@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_network_can_be_loaded_again(backbone: str):
    check_config(json.loads(network_json(backbone)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("backbone", sorted(set(MINIMUM_SIZE) - set(SMALLEST)))
def test_every_larger_network_can_be_loaded_again(backbone: str):
    check_config(json.loads(network_json(backbone)))


def network_json(backbone: str) -> str:
    size = 331 if backbone == "nasnet_large" else 96
    return whole_network(params_with(size, backbone=backbone), 3).to_json()
