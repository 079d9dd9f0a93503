"""The translated model file: models/openvino/model.xml and model.bin."""

import html
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.fault_table import faulty
from helpers.models import CLASS_NAMES, TRAINED_ON, save_network
from helpers.project import REPOSITORY, run_python
from image_classifier.common.errors import InputError
from image_classifier.computing.openvino_model import build_function, read_model, write_model
from image_classifier.outputs.openvino_file import load_translated

CNN = {"backbone": "cnn", "conv1_filters": 4, "conv2_filters": 4, "dense_units": 8}
REFUSED = "one-line error that names the file"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a translated model, beside it "other" of one that differs in its weights."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("openvino", "other"):
        save_network(folder / name / "model.xml", **CNN)
    return folder / "openvino"


@pytest.fixture
def path(saved: Path, tmp_path: Path) -> Path:
    """The .xml file of a copy."""
    return shutil.copytree(saved, tmp_path / "openvino") / "model.xml"


def refused(path: Path) -> str:
    """The error when the file is loaded, which must be one line that names one of both files."""
    with pytest.raises(InputError) as raised:
        load_translated(path)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(str(path.with_suffix("")))
    return line.replace(str(path.parent), "")


def test_a_saved_model_predicts_the_same_and_has_metadata(tmp_path: Path):
    path = tmp_path / "openvino/model.xml"
    network = save_network(path, **CNN)
    loaded, class_names, trained_on = load_translated(path)
    assert (class_names, trained_on) == (CLASS_NAMES, TRAINED_ON)
    assert {file.name for file in path.parent.iterdir()} == {"model.xml", "model.bin"}
    assert list(tmp_path.iterdir()) == [path.parent]
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    extractor = network.get_layer("feature_extractor")
    for name, part in {"probabilities": network, "features": extractor}.items():
        expected = part.predict(pixels, verbose=0)
        np.testing.assert_allclose(build_function(loaded, name)(pixels), expected, atol=1e-4)


def damaged(what: str, *values: object) -> object:
    return faulty("Data", f"model.xml or model.bin: {what}", REFUSED, *values)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        damaged("no .xml", "model.xml", None, "/model.xml not found; `dvc exp run` creates it"),
        damaged("no .bin", "model.bin", None, "/model.bin not found; `dvc exp run` creates it"),
        damaged("empty .xml", "model.xml", b"", "/model.xml is not a model of this repository"),
        damaged("empty .bin", "model.bin", b"", "/model.xml is damaged: "),
        damaged("text .xml", "model.xml", b"text", "/model.xml is not a model of this repository"),
        damaged("XML", "model.xml", b"<net/>", "/model.xml is not a model of this repository"),
        damaged("text .bin", "model.bin", b"text", "/model.xml is damaged: "),
        damaged("long text .bin", "model.bin", b"text" * 10_000, "/model.xml is damaged: "),
    ],
)
def test_other_files_are_refused(path: Path, name: str, content: bytes | None, message: str):
    if content is None:
        path.with_name(name).unlink()
    else:
        path.with_name(name).write_bytes(content)
    assert refused(path).startswith(message)


def test_openvino_prints_nothing_of_a_text(path: Path):
    """It would try it as a model of TensorFlow, and print each attempt."""
    path.write_text("text")
    code = (
        "import pathlib, sys\n"
        "from image_classifier.outputs.openvino_file import load_translated\n"
        "load_translated(pathlib.Path(sys.argv[1]))\n"
    )
    done = run_python("-c", code, path, folder=REPOSITORY / "src")
    assert done.stderr.startswith("Traceback") and "tensorflow" not in done.stderr


@pytest.mark.fault("Data", "model.xml or model.bin: truncated anywhere", REFUSED)
@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_truncated_files_are_refused(path: Path, name: str, record_property):
    content, generator = path.with_name(name).read_bytes(), random.Random(0)
    ends = {0, 1, 4, 63, 64, 65, *(len(content) - rest for rest in (2, 4, 8, 64, 4096))}
    ends |= {generator.randrange(len(content)) for _ in range(60)}
    for end in sorted(ends):
        path.with_name(name).write_bytes(content[:end])
        refused(path)
    record_property("injections", len(ends))


@pytest.mark.fault("Data", "model.bin: a bit changed anywhere", REFUSED)
def test_changed_weights_are_refused(path: Path, record_property):
    file, generator = path.with_suffix(".bin"), random.Random(0)
    content = file.read_bytes()
    for _ in range(30):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(changed)
        refused(path)
    record_property("injections", 30)
    file.write_bytes(content)
    load_translated(path)


@pytest.mark.fault("Data", "model.xml and model.bin: of different models", REFUSED)
@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_files_of_different_models_are_refused(path: Path, saved: Path, name: str):
    shutil.copy(saved.with_name("other") / name, path.with_name(name))
    assert refused(path).startswith("/model.bin is damaged, or belongs to another file than ")


def test_a_network_without_metadata_is_refused(path: Path):
    network = read_model(path)
    write_model(network, path.with_name("plain.xml"))
    load_translated(path.with_name("plain.xml"))  # written as it was read
    text = path.read_text()
    for key in ("metadata", "weights_checksum"):
        path.write_text(re.sub(rf"\s*<{key} [^>]*/>", "", text))
        assert refused(path).startswith("/model.xml is ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.clear(), "its metadata is incomplete"),
        (lambda values: values.update(class_names="cat"), "its metadata is incomplete"),
        (lambda values: values.update(class_names=["cat", "dog"]), "does not match its metadata"),
        (lambda values: values["trained_on"].pop("weights"), "its metadata is incomplete"),
        (lambda values: values["trained_on"].update(image_size="32"), "metadata is incomplete"),
        (lambda values: values["trained_on"].update(image_size=24), "does not match its metadata"),
        (lambda values: values["trained_on"].update(color_mode="grayscale"), "does not match its"),
        (lambda values: values["trained_on"].update(color_mode="cmyk"), "is damaged: 'cmyk'"),
    ],
    ids=[
        *("empty", "no list", "a name missing", "a value missing", "text", "another size"),
        *("grey", "no colours"),
    ],
)
@pytest.mark.fault("Data", "model.xml: metadata that contradict its network", REFUSED)
def test_metadata_that_contradict_the_network_are_refused(
    path: Path, change: Callable[[dict], object], message: str
):
    before, text, after = re.split('(?<=<metadata value=")(.*)(?=" />)', path.read_text())
    values = json.loads(html.unescape(text))
    change(values)
    path.write_text(f"{before}{html.escape(json.dumps(values))}{after}")
    assert message in refused(path)


@pytest.mark.parametrize("name", ["pixels", "probabilities", "features"])
def test_a_network_without_its_inputs_and_outputs_is_refused(path: Path, name: str):
    path.write_text(path.read_text().replace(f'names="{name}"', 'names="other"'))
    assert refused(path).startswith("/model.xml is damaged: ")
