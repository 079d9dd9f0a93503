"""Both model files of a training: models/model.keras and models/openvino."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.made_training import build_training, pixels_of, save, write_data
from helpers.models import CLASS_NAMES, TRAINED_ON, params_with, whole_network
from helpers.models import save as save_whole
from helpers.project import REPOSITORY, Project, run_python
from image_classifier.common.disk import NoSpaceError
from image_classifier.common.errors import InputError
from image_classifier.common.params import Params
from image_classifier.computing.openvino_model import build_function
from image_classifier.computing.prepared import TABLE, open_splits, read_table
from image_classifier.computing.prepared_network import EXTRACTOR, KERAS_NETWORK, RECORD
from image_classifier.evaluation import steps as evaluation
from image_classifier.networks import translation
from image_classifier.networks.backbones import build_feature_extractor
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.outputs import openvino_file
from image_classifier.outputs.metadata import Metadata, read_metadata
from image_classifier.outputs.openvino_file import OPENVINO_FILE, load_translated
from image_classifier.preparation.network import write_network
from image_classifier.training import steps
from image_classifier.training.model_file import MODEL_FILE, load_model

FROZEN = {"backbone": "efficientnet_lite0"}
MODELS = {
    "frozen": FROZEN,
    "frozen Keras application": {"backbone": "mobilenet"},
    "fine-tuned": {"backbone": "mobilenet", "fine_tune_layers": 2},
    "cnn": {"backbone": "cnn", "conv1_filters": 8, "conv2_filters": 8, "dense_units": 16},
}
FILES = [MODEL_FILE, OPENVINO_FILE, OPENVINO_FILE.with_suffix(".bin")]
# Prints the probabilities of black images; the repository is not on the path.
ALONE = {
    "model.keras": """
import keras
import numpy as np

model = keras.models.load_model("models/model.keras")
print(model.predict(np.zeros((2, 32, 32, 3)), verbose=0).tolist())
""",
    "openvino": """
import numpy as np
import openvino

model = openvino.compile_model("models/openvino/model.xml")
print(model(np.zeros((2, 32, 32, 3), np.float32))["probabilities"].tolist())
""",
}


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the data and the model files of a frozen backbone; tests use copies of it."""
    folder = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(params_with(**FROZEN))
        save(build_training(params_with(**FROZEN)))
    return folder


@pytest.fixture
def in_copy(made: Path, in_folder: Path) -> Path:
    """Be in a copy of `made`."""
    return shutil.copytree(made, in_folder, dirs_exist_ok=True)


@pytest.mark.parametrize("kind", MODELS)
def test_both_files_give_the_same_as_the_training(
    in_folder: Path, kind: str, request: pytest.FixtureRequest
):
    params = params_with(**MODELS[kind])
    if kind == "frozen":
        request.getfixturevalue("in_copy")
    else:
        write_data(params)
    training = build_training(params)
    save(training)
    trained, translated = load_model(MODEL_FILE), load_translated(OPENVINO_FILE)
    assert trained[1:] == translated[1:] and trained.class_names == ["cat", "dog", "eel"]

    pixels = pixels_of(params, "validation", read_table(TABLE))
    expected = trained.network(pixels, training=False).numpy()
    assert np.ptp(expected, axis=0).min() > 0.05  # the images differ
    found = build_function(translated.network, "probabilities")(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    validation = training.validation
    for found in (
        steps.predict_probabilities(training, validation),
        evaluation.predict_probabilities(translated.network, validation.views),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)

    extractor = trained.network.get_layer("feature_extractor")
    expected = extractor(pixels, training=False).numpy()
    found = build_function(translated.network, "features")(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_random_backbone_is_the_one_that_computed_the_features(in_copy: Path):
    params = params_with(**FROZEN)
    other = params.model_copy(update={"train": params.train.model_copy(update={"seed": 7})})
    save(build_training(other))
    keras.utils.set_random_seed(params.prepare.seed)
    expected = build_feature_extractor(params.model, 32, 3).get_weights()
    extractor = load_model(MODEL_FILE).network.get_layer("feature_extractor")
    for weight, prepared in zip(extractor.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, prepared)
    pixels = pixels_of(params, "test", read_table(TABLE))
    _, (test,) = open_splits("test")
    found = build_function(load_translated(OPENVINO_FILE).network, "features")(pixels)
    np.testing.assert_array_equal(found, test.views[0, :])


IDENTICAL = """
import os, sys
from pathlib import Path
from helpers.made_training import build_training, save, write_data
from helpers.models import CLASS_NAMES, TRAINED_ON, params_with, whole_network
from helpers.models import save as save_whole
from image_classifier.networks.tensorflow_setup import keras

models = {models!r}
for kind in sys.argv[1:]:
    policy = keras.config.dtype_policy()  # as in a sweep
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)
    Path(kind).mkdir()
    os.chdir(kind)
    params = params_with(**models[kind])
    write_data(params)
    save(build_training(params))
    os.chdir("..")
"""


@pytest.mark.parametrize(
    "kinds",
    [
        ["frozen Keras application", "cnn"],
        pytest.param(["fine-tuned", "frozen"], marks=pytest.mark.slow),
    ],
    ids=" and ".join,
)
def test_identical_trainings_have_identical_files(tmp_path: Path, kinds: list[str]):
    """Also after others in the same process, where TensorFlow gives other names."""
    for name, order in {"first": kinds, "second": kinds[::-1]}.items():
        (tmp_path / name).mkdir()
        code = IDENTICAL.format(models=MODELS)
        path = f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}"
        done = run_python("-c", code, *order, folder=tmp_path / name, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
    for kind in kinds:
        for file in FILES:
            first, second = (tmp_path / name / kind / file for name in ("first", "second"))
            assert first.read_bytes() == second.read_bytes(), f"{kind}: {file}"


def test_both_files_load_without_this_repository(tmp_path: Path):
    keras.utils.set_random_seed(0)
    network = whole_network(params_with(backbone="cnn"), 3)
    for file in (MODEL_FILE, OPENVINO_FILE):
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        save_whole(network, Metadata(CLASS_NAMES, TRAINED_ON), tmp_path / file)
    printed = {}
    for name, code in ALONE.items():
        done = run_python("-c", code, folder=tmp_path, PYTHONPATH="", KERAS_BACKEND="tensorflow")
        assert done.returncode == 0, done.stderr
        printed[name] = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(printed["openvino"], printed["model.keras"], atol=1e-4)
    np.testing.assert_allclose(np.sum(printed["openvino"], axis=1), 1, atol=1e-5)


REFUSED = "one-line error that names it, the last results stay"


def with_record(**changes: object) -> str:
    record = json.loads(RECORD.read_text()) | changes
    return json.dumps({name: value for name, value in record.items() if value != "removed"})


@pytest.mark.fault("Data", "data/prepared/network.json missing or damaged", REFUSED)
@pytest.mark.parametrize(
    "change",
    [
        lambda: None,
        lambda: "",
        lambda: "text",
        lambda: "[]",
        lambda: RECORD.read_text()[:40],
        lambda: with_record(backbone=1),
        lambda: with_record(image_size="32"),
        lambda: with_record(feature_tolerance=None),
        lambda: with_record(feature_tolerance="removed"),
        lambda: with_record(unknown=1),
    ],
    ids=[
        *("missing", "empty", "text", "a list", "truncated", "another backbone", "a size as text"),
        *("no number", "a value missing", "an unknown value"),
    ],
)
def test_a_damaged_record_is_named(in_copy: Path, change):
    text = change()
    RECORD.unlink()
    if text is not None:
        RECORD.write_text(text)
    what = "not found" if text is None else "is damaged"
    with pytest.raises(InputError, match=rf"^{RECORD} {what}; `dvc exp run` or src/prepare"):
        build_training(params_with(**FROZEN))
    trained, (_, (test,)) = load_translated(OPENVINO_FILE), open_splits("test")
    with pytest.raises(InputError, match=rf"^{RECORD} {what}; `dvc exp run` or src/prepare"):
        evaluation.check_against_files(trained, test, 4)


@pytest.mark.fault("Data", "the network in data/prepared missing or damaged", REFUSED)
@pytest.mark.parametrize("file", [KERAS_NETWORK, EXTRACTOR, EXTRACTOR.with_suffix(".bin")])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_damaged_prepared_network_is_named(in_copy: Path, file: Path, damage: str):
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content[:-9] if damage == "truncated" else content)
    before = {path: path.read_bytes() for path in FILES}
    with pytest.raises(InputError, match=f"{file.with_suffix('')}") as raised:
        save(build_training(params_with(**FROZEN)))
    assert len(str(raised.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in FILES} == before
    assert {path.name for path in Path("models").iterdir()} == {"model.keras", "openvino"}


@pytest.mark.fault(
    "Provenance", "parameters of the network edited after its features were computed", REFUSED
)
@pytest.mark.parametrize(
    ("section", "name", "value", "found"),
    [
        ("model", "backbone", "mobilenet_v2", "backbone efficientnet_lite0"),
        ("model", "weights", "imagenet", "weights random"),
        ("prepare", "image_size", 48, "image_size 32"),
    ],
)
def test_features_of_another_network_are_an_error(
    in_copy: Path, section: str, name: str, value: object, found: str
):
    values = params_with(**FROZEN).model_dump()
    values[section][name] = value
    expected = f"data/prepared: found features of {found}, but params.yaml has {value}; run `dvc"
    with pytest.raises(InputError, match=f"^{expected}"):
        build_training(Params.model_validate(values))


@pytest.mark.fault("Provenance", "pixels prepared for a backbone that is now frozen", REFUSED)
def test_pixels_for_a_frozen_backbone_are_an_error(in_folder: Path):
    write_data(params_with(**MODELS["fine-tuned"]))
    with pytest.raises(InputError, match=rf"^{RECORD} not found; `dvc exp run` or"):
        build_training(params_with(**FROZEN))


def test_features_for_a_fine_tuned_backbone_are_an_error(in_copy: Path):
    with pytest.raises(InputError, match=r"data/prepared: found arrays of shape \(1280,\) per im"):
        build_training(params_with(**MODELS["fine-tuned"]))


@pytest.mark.fault(
    "Provenance",
    "`train` after an edit of model.backbone, without `prepare`",
    "one-line error, the last results stay",
)
def test_the_last_results_stay(project: Project, made: Path):
    shutil.copytree(made, project.root, dirs_exist_ok=True)
    (project.root / "dvclive/evaluate").mkdir(parents=True)
    (project.root / "dvclive/evaluate/metrics.json").write_text('{"test": {"accuracy": 1}}')
    project.set_params(
        {"prepare": {"image_size": 32}, "model": {"backbone": "resnet50", "weights": "random"}}
    )
    before = project.files("data", "models", "dvclive")
    line = project.error("python", "src/train.py")
    assert line.startswith("error: data/prepared: found features of backbone efficientnet_lite0,")
    assert project.files("data", "models", "dvclive") == before


@pytest.mark.fault(
    "Training", "OpenVINO gives other numbers than Keras", "one-line error, earlier results stay"
)
@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_wrong_translation_is_an_error(
    in_copy: Path, stage: str, monkeypatch: pytest.MonkeyPatch
):
    params = params_with(**MODELS["frozen" if stage == "prepare" else "cnn"])
    if stage == "train":
        write_data(params)
        training = build_training(params)

    def build(model, output: str):
        return lambda pixels: build_function(model, output)(pixels) + np.float32(2e-3)

    monkeypatch.setattr(translation, "build_function", build)
    before = {path: path.read_bytes() for path in FILES}
    with pytest.raises(InputError, match=r"^OpenVINO [\d.]+: found \w+ that differ by 0\.0"):
        if stage == "prepare":
            Path("new").mkdir()
            write_network(params, 3, sorted(map(str, Path("data/raw").rglob("*.png"))), Path("new"))
        else:
            save(training)
    assert {path: path.read_bytes() for path in FILES} == before
    assert not Path("new").exists() or not list(Path("new").iterdir())


@pytest.mark.fault("Disk", "full while the translated model is written", "one line, old files stay")
@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_translated_model_that_does_not_fit_is_refused(
    in_copy: Path, moment: str, monkeypatch: pytest.MonkeyPatch
):
    if moment == "before":
        usage = shutil.disk_usage(in_copy)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    else:  # as if another process had filled the disk meanwhile

        def write(model, path: Path) -> None:
            path.parent.mkdir()
            path.with_suffix(".bin").symlink_to("/dev/full")
            openvino_file_write(model, path)

        openvino_file_write = openvino_file.write_model
        monkeypatch.setattr(openvino_file, "write_model", write)
    trained = load_translated(OPENVINO_FILE)
    metadata = Metadata(*trained[1:])
    before = {path: path.read_bytes() for path in FILES}
    with pytest.raises(NoSpaceError, match=r"^models/openvino: .*o space left on.*free some space"):
        openvino_file.save_translated(trained.network, metadata, OPENVINO_FILE)
    assert {path: path.read_bytes() for path in FILES} == before
    assert {path.name for path in Path("models").iterdir()} == {"model.keras", "openvino"}


def test_a_kill_between_both_files_leaves_complete_ones(
    in_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    training = build_training(params_with(**FROZEN))
    training.network.get_layer("classifier").set_weights(
        [2 * weight for weight in training.network.get_weights()]
    )
    before = {path: path.read_bytes() for path in FILES}
    with monkeypatch.context() as patch:
        patch.setattr(steps, "save_translated", killed)
        with pytest.raises(KeyboardInterrupt):
            save(training)
    after = {path: path.read_bytes() for path in FILES}
    assert [path for path in FILES if after[path] != before[path]] == [MODEL_FILE]
    read_metadata(MODEL_FILE), load_translated(OPENVINO_FILE)
    save(training)
    assert all(path.read_bytes() != before[path] for path in FILES)
