import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.project import REPOSITORY
from image_classifier.outputs.result_files import replacing, set_aside

PIPELINE = """
stages:
  evaluate:
    metrics: [{results/metrics.json: {cache: false}}]
plots:
  - ROC: {x: fpr, y: {results/plots/sklearn/roc.json: tpr}}
  - Loss: {x: step, y: {results/plots/metrics/loss.tsv: loss, elsewhere/loss.tsv: loss}}
  - results/plots/images
"""
EMPTY = {
    "metrics.json": "{}\n",
    "plots/sklearn/roc.json": "[]\n",
    "plots/metrics/loss.tsv": "step\tloss\n",
}
OLD = {
    "metrics.json": "old",
    "predictions.csv": "old",
    "plots/sklearn/roc.json": "old",
    "plots/metrics/loss.tsv": "old",
    "plots/.gitignore": "old",
}
IMAGE = "plots/images/old.png"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of an earlier run, one of them a link as DVC makes it from its cache."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(PIPELINE)
    Path(".dvc/tmp").mkdir(parents=True)
    folder, cached = Path("results"), tmp_path / "cached"
    for name, content in OLD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    cached.write_text("old")
    (folder / "predictions.csv").unlink()
    (folder / "predictions.csv").symlink_to(cached)
    (folder / IMAGE).parent.mkdir()
    Image.new("RGB", (64, 48), "red").save(folder / IMAGE)
    return folder


def texts(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def color(folder: Path) -> tuple[int, int, int]:
    """Of a corner of the image."""
    with Image.open(folder / IMAGE) as image:
        assert image.size == (64, 48)
        return image.getpixel((0, 0))


def test_new_files_replace_the_old_ones_when_the_block_succeeds(folder: Path):
    with replacing("results") as scratch:
        (scratch / "plots/metrics").mkdir(parents=True)
        for name in ("metrics.json", "plots/metrics/loss.tsv"):
            (scratch / name).write_text("new")
        assert texts(folder) == OLD
    expected = {
        "metrics.json": "new",
        "plots/metrics/loss.tsv": "new",
        "plots/.gitignore": "old",
    }
    assert texts(folder) == expected and not (folder / IMAGE).exists()
    assert Path("cached").read_text() == "old"


def test_a_failure_leaves_the_old_files(folder: Path):
    with pytest.raises(ZeroDivisionError), replacing("results") as scratch:
        (scratch / "metrics.json").write_text("half")
        raise ZeroDivisionError
    assert texts(folder) == OLD and color(folder) == (255, 0, 0)
    assert list(Path(".dvc/tmp").iterdir()) == []


def test_there_need_be_no_folder_before(folder: Path):
    Path("dvc.yaml").write_text(PIPELINE.replace("results/", "dvclive/evaluate/"))
    with set_aside("dvclive/evaluate"):
        assert texts(Path("dvclive/evaluate")) == EMPTY
    with replacing("dvclive/evaluate") as scratch:
        (scratch / "metrics.json").write_text("new")
    assert texts(Path("dvclive/evaluate")) == {"metrics.json": "new"}


def test_results_set_aside_are_empty_from_the_start(folder: Path):
    with set_aside("results"):
        assert texts(folder) == {**EMPTY, "plots/.gitignore": "old"}
        assert color(folder) != (255, 0, 0)
    assert texts(folder) == {**EMPTY, "plots/.gitignore": "old"}
    assert list(Path(".dvc/tmp").rglob("*.json")) == []
    assert Path("cached").read_text() == "old"


def test_results_set_aside_come_back_after_a_failure(folder: Path):
    with pytest.raises(ZeroDivisionError), set_aside("results"):
        raise ZeroDivisionError
    assert texts(folder) == OLD and color(folder) == (255, 0, 0)
    assert (folder / "predictions.csv").is_symlink()


def test_results_set_aside_come_back_after_a_kill_and_a_failure(folder: Path):
    script = (
        "import os\n"
        "from image_classifier.outputs.result_files import set_aside\n"
        "with set_aside('results'):\n"
        "    os._exit(9)\n"
    )
    sources = {"PYTHONPATH": str(REPOSITORY / "src")}
    killed = subprocess.run([sys.executable, "-c", script], env=sources)
    assert killed.returncode == 9
    assert texts(folder) == {**EMPTY, "plots/.gitignore": "old"}
    with pytest.raises(ZeroDivisionError), set_aside("results"):
        raise ZeroDivisionError
    assert texts(folder) == OLD and color(folder) == (255, 0, 0)


def test_newer_results_are_not_replaced_by_those_of_before_a_kill(folder: Path):
    Path(".dvc/tmp/set_aside/results").mkdir(parents=True)
    Path(".dvc/tmp/set_aside/results/metrics.json").write_text("older")
    with pytest.raises(ZeroDivisionError), set_aside("results"):
        raise ZeroDivisionError
    assert texts(folder) == OLD
