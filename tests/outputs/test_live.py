from pathlib import Path

import pytest

from image_classifier.outputs.live import replacing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    folder = Path("results")
    (folder / "plots/images").mkdir(parents=True)
    for name in ("metrics.json", "plots/images/old.jpg", "plots/.gitignore"):
        (folder / name).write_text("old")
    return folder


def test_new_files_replace_the_old_ones_when_all_is_well(folder: Path):
    with replacing(folder) as scratch:
        (scratch / "plots/sklearn").mkdir(parents=True)
        (scratch / "metrics.json").write_text("new")
        (scratch / "plots/sklearn/roc.json").write_text("new")
        assert (folder / "metrics.json").read_text() == "old"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    assert found.keys() == {"metrics.json", "plots/sklearn/roc.json", "plots/.gitignore"}
    assert found["metrics.json"].read_text() == "new"


def test_a_failure_leaves_the_old_files(folder: Path):
    with pytest.raises(ZeroDivisionError), replacing(folder) as scratch:
        (scratch / "metrics.json").write_text("half")
        raise ZeroDivisionError
    assert (folder / "metrics.json").read_text() == "old"
    assert (folder / "plots/images/old.jpg").exists()
    assert list(Path(".dvc/tmp").iterdir()) == []


def test_there_need_be_no_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with replacing("dvclive/evaluate") as scratch:
        (scratch / "metrics.json").write_text("{}")
    assert Path("dvclive/evaluate/metrics.json").read_text() == "{}"
