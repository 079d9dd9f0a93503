"""Model files that were made to do harm: each is refused, and nothing in it is executed."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from PIL import Image

from conftest import REPOSITORY
from image_classifier.errors import InputError
from image_classifier.model import load_model, save_model
from image_classifier.model_file import check_config
from image_classifier.networks import build_networks
from image_classifier.params import KERAS_APPLICATIONS, Params
from image_classifier.tensorflow_setup import keras
from test_model import CLASS_NAMES, TRAINED_ON, params_with

# One network of each kind, but for kinds that take long to build.
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
    save_model(build_networks(params_with(backbone="cnn"), 3).model, CLASS_NAMES, TRAINED_ON, path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a model file in which `change` has changed the members."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def with_layer(source: Path, target: Path, layer: dict) -> Path:
    """A copy of a model file whose last layer is another one."""

    def change(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        config["config"]["layers"][-1] |= layer
        members["config.json"] = json.dumps(config).encode()

    return rewritten(source, target, change)


def with_weights(source: Path, target: Path, change: Callable[[h5py.File, str], None]) -> Path:
    """A copy of a model file in whose weights `change` has replaced the array that it is named."""

    def change_member(members: dict[str, bytes]) -> None:
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as weights:
            names = []
            weights.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            change(weights, names[0])
        members["model.weights.h5"] = content.getvalue()

    return rewritten(source, target, change_member)


def layer(module: str | None, name: str, registered_name: str | None = None, /, **config) -> dict:
    """What a configuration says of a layer."""
    return {
        "module": module,
        "class_name": name,
        "registered_name": registered_name,
        "config": {"name": "probabilities", **config},
    }


def calling(module: str, name: str) -> dict:
    """A layer whose activation is a function given by its name."""
    function = {"class_name": "function", "module": module, "config": name, "registered_name": name}
    return layer("keras.layers", "Activation", activation=function)


def lambda_layer(marker: Path) -> dict:
    """A layer with marshalled code that makes a folder when it is called."""
    made = keras.layers.Lambda(
        eval(f"lambda x: __import__('os').makedirs({str(marker)!r}, exist_ok=True) or x"),
        name="probabilities",
    )
    return keras.saving.serialize_keras_object(made)


def security(what: str, *values: object) -> object:
    outcome = "refused in one line, nothing is executed"
    return pytest.param(*values, id=what, marks=pytest.mark.fault("Security", what, outcome))


def test_code_in_the_test_file_would_be_executed_without_safe_mode(
    model_file: Path, tmp_path: Path
):
    path = with_layer(model_file, tmp_path / "m.keras", lambda_layer(tmp_path / "executed"))
    keras.models.load_model(path, compile=False, safe_mode=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.fault(
    "Security",
    "model file: a Lambda layer with code, given to `predict.py`",
    "refused in one line, nothing is executed",
)
def test_predict_executes_no_code_of_a_model_file(model_file: Path, tmp_path: Path):
    path = with_layer(model_file, tmp_path / "m.keras", lambda_layer(tmp_path / "executed"))
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "src/predict.py", "picture.png", "--model", path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {path} is not a model of this repository: "
        "its config.json names keras.layers.Lambda, which no network here uses"
    ]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "attack",
    [
        security("model file: names `os.system`", calling("os", "system")),
        security("model file: names `builtins.exec`", calling("builtins", "exec")),
        security("model file: names `subprocess.Popen`", layer("subprocess", "Popen", args="id")),
        security(
            "model file: names a function of Keras that fetches files",
            calling("keras.utils", "get_file"),
        ),
        security(
            "model file: turns Keras' safe mode off",
            calling("keras.config", "enable_unsafe_deserialization"),
        ),
        security(
            "model file: names any module of Keras",
            calling("keras.src.utils.python_utils", "func_load"),
        ),
        security(
            "model file: a layer that runs another TensorFlow program",
            layer("keras.layers", "TFSMLayer", filepath="/tmp", call_endpoint="serve"),
        ),
        security(
            "model file: a layer that reads another file",
            layer("keras.layers", "StringLookup", vocabulary="/etc/passwd"),
        ),
        security(
            "model file: a layer that unpickles",
            layer("keras.layers", "TorchModuleWrapper", module="gASVAA=="),
        ),
        security(
            "model file: Keras' old form, without a module",
            layer(None, "Lambda", function="f"),
        ),
        security(
            "model file: another class behind a registered name",
            layer("keras.layers", "Softmax", "package>Other"),
        ),
        security(
            "model file: a function among the settings of training",
            {"compile_config": {"optimizer": "adam", "loss": calling("os", "system")}},
        ),
        security(
            "model file: a class name that is none",
            {"class_name": ["Lambda"], "module": {"a": 1}},
        ),
    ],
)
def test_a_model_file_names_known_classes_only(model_file: Path, tmp_path: Path, attack: dict):
    path = with_layer(model_file, tmp_path / "m.keras", attack)
    with pytest.raises(InputError, match=r"its config\.json names .* which no network here uses$"):
        load_model(path)


def external_array(weights: h5py.File, name: str) -> None:
    shape, dtype = weights[name].shape, weights[name].dtype
    del weights[name]
    secret = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    weights.create_dataset(name, shape, dtype, external=secret)


def external_link(weights: h5py.File, name: str) -> None:
    del weights[name]
    weights[name] = h5py.ExternalLink("/tmp/other.h5", "secret")


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
    # Less than what Keras itself refuses, which is 4 GiB.
    weights.create_dataset(name, (2**29,), "f4", chunks=(2**20,), compression="gzip")


def array_of_references(weights: h5py.File, name: str) -> None:
    del weights[name]
    weights.create_dataset(name, (1,), h5py.ref_dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        security("model file: weights in another file", external_array, "external Dataset"),
        security("model file: weights behind a link", external_link, "ExternalLink"),
        security("model file: a link among its weights", soft_link, "SoftLink"),
        security("model file: weights put together elsewhere", virtual_array, "virtual Dataset"),
        security("model file: 2 MB that declare weights of 2 GiB", huge_array, "would take 2,149,"),
        security("model file: weights that are no numbers", array_of_references, ""),
    ],
)
def test_weights_are_numbers_in_the_file_itself(
    model_file: Path, tmp_path: Path, change: Callable, message: str
):
    path = with_weights(model_file, tmp_path / "m.keras", change)
    with pytest.raises(InputError, match=rf"m\.keras is damaged: .*{message}") as caught:
        load_model(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        security("model file: a member outside its folder", "../../evil"),
        security("model file: a member with an absolute path", "/tmp/evil"),
        security("model file: assets", "assets/layers/evil"),
        security("model file: arrays that may hold pickles", "model.weights.npz"),
    ],
)
def test_a_model_file_holds_three_members(model_file: Path, tmp_path: Path, name: str):
    path = rewritten(model_file, tmp_path / "m.keras", lambda members: members.update({name: b""}))
    with pytest.raises(InputError, match=f"it holds '{name}'"):
        load_model(path)


@pytest.mark.fault(
    "Security",
    "model file: a configuration that unpacks to 100 times its size",
    "refused in one line, nothing is executed",
)
def test_a_compressed_model_file_is_refused(model_file: Path, tmp_path: Path):
    with (
        zipfile.ZipFile(model_file) as source,
        zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        target.writestr("metadata.json", source.read("metadata.json"))
        target.writestr("config.json", b" " * 10_000_000 + source.read("config.json"))
    with pytest.raises(InputError, match=r"'metadata\.json', or holds it compressed"):
        load_model(tmp_path / "m.keras")


@pytest.mark.fault(
    "Security",
    "model file: the old HDF5 format with a Lambda layer",
    "refused in one line, nothing is executed",
)
def test_the_old_format_is_refused(tmp_path: Path):
    marker = tmp_path / "executed"
    last = keras.saving.deserialize_keras_object(lambda_layer(marker), safe_mode=False)
    keras.Sequential([keras.Input((2,)), last]).save(tmp_path / "m.h5")
    marker.rmdir()  # made while the network was put together
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
        ({"class_names": ["cat", "dog"]}, "does not fit what it says of itself"),
        ({"trained_on": TRAINED_ON._asdict() | {"image_size": 9}}, "does not fit what it says"),
        ({"trained_on": TRAINED_ON._asdict() | {"color_mode": "cmyk"}}, "damaged: 'cmyk'"),
    ],
    ids=["no list", "no names", "values missing", "a name missing", "another size", "no colours"],
)
@pytest.mark.fault("Security", "model file: says what its network is not", "refused in one line")
def test_a_model_file_that_contradicts_itself(
    model_file: Path, tmp_path: Path, changes: dict, message: str
):
    def change(members: dict[str, bytes]) -> None:
        metadata = json.loads(members["metadata.json"])
        members["metadata.json"] = json.dumps(metadata | changes).encode()

    with pytest.raises(InputError, match=message):
        load_model(rewritten(model_file, tmp_path / "m.keras", change))


def test_a_rewritten_file_is_otherwise_as_good(model_file: Path, tmp_path: Path):
    # Or the tests above would refuse anything that they rewrite.
    path = with_weights(model_file, tmp_path / "m.keras", lambda weights, name: None)
    path = with_layer(path, tmp_path / "n.keras", {})
    assert load_model(path).class_names == CLASS_NAMES


@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_network_can_be_loaded_again(backbone: str):
    check_config(json.loads(network_json(backbone)))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(set(KERAS_APPLICATIONS) - set(SMALLEST)))
def test_every_larger_network_can_be_loaded_again(backbone: str):
    check_config(json.loads(network_json(backbone)))


def network_json(backbone: str) -> str:
    params = params_with(backbone=backbone).model_dump()
    params["prepare"]["image_size"] = 331 if backbone == "nasnet_large" else 96
    return build_networks(Params.model_validate(params), 3).model.to_json()
