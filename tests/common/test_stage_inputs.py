"""A stage's inputs: sources are compared by content, data by modification time."""

from pathlib import Path

import pytest

from image_classifier.common.errors import InputError
from image_classifier.common.stage_inputs import StageInputs

MODULE = Path("src/package/module.py")
PIPELINE = """
stages:
  train:
    deps: [data/prepared, src/train.py, src/package]
    params: [train, model.backbone]
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, text in {
        MODULE: "x = 1\n",
        Path("src/train.py"): "x = 2\n",
        Path("data/prepared/train.npy"): "numbers",
        Path("dvc.yaml"): PIPELINE,
        Path("params.yaml"): "train: {epochs: 3}\nmodel: {backbone: cnn, width: 8}\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_edited_sources_below_a_folder_are_named():
    inputs = StageInputs("train")
    MODULE.write_text(MODULE.read_text())  # an editor saves an unchanged file
    Path("src/package/__pycache__").mkdir()
    Path("src/package/__pycache__/module.pyc").write_text("compiled")
    inputs.check_unchanged()
    MODULE.write_text("x = 3\n")
    with pytest.raises(InputError, match=f"^{MODULE} changed while train was running"):
        inputs.check_unchanged()


def test_added_and_removed_sources_below_a_folder_are_named():
    inputs = StageInputs("train")
    new = Path("src/package/new.py")
    new.write_text("")
    MODULE.unlink()
    with pytest.raises(InputError, match=f"^{MODULE}, {new} changed"):
        inputs.check_unchanged()


def test_the_identity_depends_on_sources_below_a_folder():
    """So that no training resumes with changed code."""
    before = StageInputs("train").identity()
    assert StageInputs("train").identity() == before
    MODULE.write_text("x = 3\n")
    assert StageInputs("train").identity() != before


def test_data_is_compared_by_modification_time():
    inputs = StageInputs("train")
    identity = inputs.identity()
    data = Path("data/prepared/train.npy")
    data.write_text(data.read_text())
    with pytest.raises(InputError, match=f"^{data}.* changed while train was running"):
        inputs.check_unchanged()
    assert StageInputs("train").identity() == identity  # its files are passed to `identity`
    assert StageInputs("train").identity(data.parent) != identity


def test_parameters_are_compared_by_value():
    inputs = StageInputs("train")
    Path("params.yaml").write_text("model: {width: 9, backbone: cnn}\ntrain: {epochs: 3}\n")
    inputs.check_unchanged()
    Path("params.yaml").write_text("model: {width: 9, backbone: cnn}\ntrain: {epochs: 4}\n")
    with pytest.raises(InputError, match=r"^train\.epochs changed while train was running"):
        inputs.check_unchanged()
