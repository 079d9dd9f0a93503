"""src/predict.py in another directory, with only the model files."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.models import save
from helpers.project import REPOSITORY, one_error, run_python
from image_classifier.common.errors import InputError
from image_classifier.common.images import load_batches
from image_classifier.common.params import Params, read_params
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.outputs.metadata import Metadata, describe_training
from image_classifier.training.classifier import build_networks
from image_classifier.training.model_file import load_model
from image_classifier.training.optimization import compile_network
from predict import explanation_path, find_image_files

SCRIPT = REPOSITORY / "src/predict.py"
CLASS_NAMES = ["blue", "green", "紅, red"]


@pytest.fixture(scope="session")
def model_file(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files of a small network trained on the colours of `images`, alone in a folder.

    The .keras file; the same translated is `translated/colours.xml` beside it.
    """
    values = read_params(REPOSITORY / "params.yaml").model_dump()
    values["prepare"].update(image_size=16, color_mode="rgb")
    values["model"].update(conv1_filters=4, conv2_filters=4, dense_units=8)
    values["train"].update(learning_rate=0.01, schedule="constant", warmup_epochs=0, epochs=8)
    params = Params.model_validate(values)
    keras.utils.set_random_seed(0)
    network, model = build_networks(params, feature_count=0, class_count=3)
    labels = np.repeat([0, 1, 2], 30)
    compile_network(network, params, labels)
    paths = sorted(images.rglob("*.png"))
    pixels = np.concatenate(list(load_batches(paths, 90, 16, "rgb")))
    network.fit(pixels, labels, epochs=8, batch_size=10, verbose=0)
    path = tmp_path_factory.mktemp("model") / "colours.keras"
    table = path.with_name("images.csv")
    table.touch()
    trained_on = describe_training(params, table, 90, 8, 1.0)
    metadata = Metadata(CLASS_NAMES, trained_on)
    save(model, metadata, path)
    save(model, metadata, translated(path))
    return path


def translated(model_file: Path) -> Path:
    return model_file.with_name("translated") / "colours.xml"


@pytest.fixture
def here(tmp_path: Path, images: Path) -> Path:
    """The directory in which commands run, with a folder "photos" that has a damaged image."""
    for name in ("blue", "red"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            shutil.copy(images / name / f"{number:02}.png", tmp_path / "photos" / name)
    good = (images / "blue/05.png").read_bytes()
    (tmp_path / "photos/blue/03a damaged.png").write_bytes(good[: len(good) // 2])
    return tmp_path


def predict(
    here: Path, *arguments: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    """Run the command in `here`; its exit code must be `code`."""
    done = run_python(SCRIPT, *arguments, folder=here, **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("suffix", [".keras", ".xml"])
def test_a_damaged_file_is_reported_and_the_rest_are_classified(
    here: Path, model_file: Path, suffix: str
):
    path = model_file if suffix == ".keras" else translated(model_file)
    done = predict(here, "photos", "--model", path, "--json", "--top", "2", code=1)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    paths = [f"photos/{name}/{number:02}.png" for name in ("blue", "red") for number in range(5)]
    assert [result["path"] for result in results] == paths

    network = load_model(model_file).network
    pixels = next(load_batches([here / path for path in paths], 10, 16, "rgb"))
    for result, outputs in zip(results, network.predict(pixels, verbose=0), strict=True):
        first, second = np.argsort(-outputs)[:2]
        assert result["class"] == CLASS_NAMES[first] == result["top"][0]["class"]
        assert result["class"].endswith(Path(result["path"]).parent.name)
        assert result["probability"] == result["top"][0]["probability"]
        assert result["top"][1]["class"] == CLASS_NAMES[second]
        for place, label in enumerate((first, second)):
            probability = result["top"][place]["probability"]
            assert probability == pytest.approx(outputs[label], abs=2e-6)
        assert len(result["top"]) == 2

    trained_on, damaged, last = done.stderr.splitlines()
    assert trained_on.startswith(f"{path}: trained on 90 images of digits (3 classes: blue")
    assert damaged.startswith("photos/blue/03a damaged.png: ") and "truncated" in damaged
    assert last == "error: 1 of 11 files could not be read"


def test_csv_keeps_unusual_names(here: Path, model_file: Path):
    (here / "photos/blue/03a damaged.png").unlink()
    strange = os.fsdecode(b'caf\xe9, "ha".png')
    shutil.copy(here / "photos/red/00.png", here / strange)
    options = ("--model", model_file, "--csv", "--top", "9")
    done = predict(here, "photos/blue/*", strange, *options, LC_ALL="C", PYTHONUTF8="0")
    header, *rows = csv.reader(io.StringIO(done.stdout))
    names = ["path", "class", "probability"]
    assert header == [*names, "class_2", "probability_2", "class_3", "probability_3"]
    blue = [f"photos/blue/{number:02}.png" for number in range(5)]
    assert [row[0] for row in rows] == [*blue, strange]
    assert [row[1] for row in rows] == ["blue"] * 5 + ["紅, red"]
    for row in rows:
        assert sum(map(float, row[2::2])) == pytest.approx(1, abs=3e-6)
        assert float(row[2]) >= float(row[4]) >= float(row[6])
    assert len(done.stderr.splitlines()) == 1


def test_text_is_aligned(here: Path, model_file: Path):
    (here / "photos/blue/03a damaged.png").unlink()
    shutil.copy(here / "photos/red/00.png", here / "a name that is longer than the others.png")
    done = predict(here, "photos", "a name*", "--model", model_file)
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    assert {len(line) for line in lines} == {len(lines[0])}
    for line in lines:
        path, name, probability = re.split(" {2,}", line)
        assert (here / path).is_file()
        assert name in ("blue", CLASS_NAMES[2]) and 0.5 < float(probability) <= 1


def test_each_image_has_its_own_heat_map(here: Path, model_file: Path):
    options = ("--model", model_file, "--explain", "photos/heat maps", "--json")
    done = predict(here, "photos", *options, code=1)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    drawn = {result["explanation"] for result in results}
    assert len(drawn) == 10  # although files in "blue" and "red" have the same names
    assert drawn == {str(path.relative_to(here)) for path in (here / "photos").glob("heat maps/*")}
    for path in drawn:
        with Image.open(here / path) as sheet:
            assert sheet.width > 640 and sheet.height > 320

    again = predict(here, "photos", *options, code=1)
    assert again.stdout == done.stdout  # the heat maps themselves are not classified


def test_a_closed_output_is_not_an_error(here: Path, model_file: Path):
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    command = [sys.executable, SCRIPT, "photos", "--model", model_file]
    done = subprocess.run(command, cwd=here, stdout=writing_end, stderr=subprocess.PIPE, text=True)
    os.close(writing_end)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_results_are_printed_early_and_can_be_interrupted(here: Path, model_file: Path):
    for number in range(
        3000
    ):  # more than fits into the pipe: the command cannot finish before it is read
        (here / f"photos/{number:04}.png").hardlink_to(here / "photos/red/00.png")
    command = [sys.executable, SCRIPT, "photos", "--model", model_file, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        cwd=here,
        stdout=pipe,
        stderr=pipe,
        text=True,
        # A shell makes background processes, perhaps these tests, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.endswith("interrupted\n") and "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photos", "nowhere"], 1, "error: nowhere: no file found; allowed: a file, a folder, a p"),
        (["photos/*.gif"], 1, "error: photos/*.gif: no file found"),
        (["empty"], 1, "error: empty: no file found"),
        (["photos", "--model", "nowhere.keras"], 1, "error: nowhere.keras not found"),
        (["photos", "--model", "text"], 1, "error: text is not a model of this repository"),
        (["photos", "--model", "photos"], 1, "error: photos is not a model of this repository"),
        (["photos", "--model", "nowhere.xml"], 1, "error: nowhere.xml not found"),
        (["photos", "--model", "text.xml"], 1, "error: text.xml is not a model of this repository"),
        (
            ["photos", "--model", "text.xml", "--explain", "maps"],
            2,
            "error: --explain: found the model text.xml; allowed: a .keras file",
        ),
        (["photos", "--explain", "text"], 1, "error: --explain: text: File exists; allowed: a f"),
        (["photos", "--top", "0"], 2, "error: argument --top: found '0'; allowed: 1 or more"),
        (["photos", "--json", "--csv"], 2, "error: argument --csv: not allowed with argument --j"),
        ([], 2, "error: the following arguments are required: PATH"),
    ],
)
def test_wrong_arguments_are_found_before_tensorflow_is_imported(
    here: Path, model_file: Path, arguments: list[str], code: int, message: str
):
    hide_tensorflow(here)
    (here / "empty").mkdir()
    for name in ("text", "text.xml", "text.bin"):
        (here / name).write_text("a file")
    if "--model" not in arguments:
        arguments = ["--model", str(model_file), *arguments]
    done = predict(here, *arguments, code=code, PYTHONPATH=str(here))
    assert message in done.stderr.splitlines()[-1]
    assert code == 2 or len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def hide_tensorflow(folder: Path) -> None:
    """Let imports of TensorFlow and Keras fail if `folder` is in PYTHONPATH."""
    for name in ("tensorflow", "keras"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")


def test_a_translated_model_needs_no_tensorflow(here: Path, model_file: Path):
    hide_tensorflow(here)
    options = ("--model", translated(model_file))
    done = predict(here, "photos/red/00.png", *options, PYTHONPATH=str(here))
    assert done.stdout.split()[1:3] == ["紅,", "red"]
    done = run_python(
        SCRIPT, "photos/red/00.png", "--model", model_file, folder=here, PYTHONPATH=str(here)
    )
    assert "was imported" in done.stderr  # otherwise the test would show nothing


@pytest.mark.fault("Data", "a damaged model given to `predict.py`", "one-line error that names it")
@pytest.mark.parametrize("name", ["colours.xml", "colours.bin"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_damaged_translated_model_is_named(here: Path, model_file: Path, name: str, damage: str):
    shutil.copytree(translated(model_file).parent, here / "model")
    path = here / "model" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    if damage == "missing":
        path.unlink()
    done = predict(here, "photos", "--model", "model/colours.xml", code=1)
    assert one_error(done.stderr).startswith("error: model/colours.") and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_files_in_the_order_of_the_arguments_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    names = ["b/2.jpg", "b/1.jpg", "b/.hidden", "a/deep/1.jpg", "a/[1].jpg", "a/1.jpg", "c/1.jpg"]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()

    def found(*arguments: str, left_out: Path | None = None) -> list[str]:
        return [path.as_posix() for path in find_image_files(arguments, left_out)]

    everything = ["a/1.jpg", "a/[1].jpg", "a/deep/1.jpg", "b/1.jpg", "b/2.jpg", "c/1.jpg"]
    assert found(".") == everything
    assert found("b", "a/deep", "b/../b/1.jpg") == ["b/1.jpg", "b/2.jpg", "a/deep/1.jpg"]
    assert found("b/2.jpg", str(tmp_path / "b")) == ["b/2.jpg", str(tmp_path / "b/1.jpg")]
    assert found("**/1.jpg") == ["a/1.jpg", "a/deep/1.jpg", "b/1.jpg", "c/1.jpg"]
    assert sorted(found("**")) == everything
    assert found("[bc]") == ["b/1.jpg", "b/2.jpg", "c/1.jpg"]
    assert found("a/[1].jpg") == [
        "a/[1].jpg"
    ]  # a file of that name takes precedence over the pattern
    assert found("b/.hidden", "b") == ["b/.hidden", "b/1.jpg", "b/2.jpg"]
    assert found(".", left_out=Path("b")) == everything[:3] + everything[-1:]
    with pytest.raises(InputError, match="b: no file found"):
        found("a", "b", left_out=tmp_path / "b")


def test_an_explanation_is_named_after_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["a/1.jpg", "a/1.png", "b/1.jpg", "a_b/1.jpg", "a/b/1.jpg"]
    drawn = {explanation_path(Path("maps"), Path(name)) for name in names}
    assert len(drawn) == len(names)
    assert all(path.parent == Path("maps") and path.name.startswith("1-") for path in drawn)
    monkeypatch.chdir(tmp_path)
    absolute = explanation_path(Path("maps"), tmp_path / "1.jpg")
    assert explanation_path(Path("maps"), Path("1.jpg")) == absolute
    long = explanation_path(Path("maps"), Path("ü" * 120 + ".jpg"))
    assert len(os.fsencode(long.name)) < 255
