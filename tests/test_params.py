from pathlib import Path

import pytest

from conftest import REPOSITORY
from image_classifier.errors import InputError
from image_classifier.params import read_params

PRESETS = sorted((REPOSITORY / "presets").glob("*.yaml"))


@pytest.fixture
def changed(tmp_path: Path):
    """Write params.yaml with some text replaced, and return its path."""

    def change(*replacements: tuple[str, str]) -> Path:
        text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return change


def message_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_params(path)
    return str(caught.value)


def test_the_default_trains_a_cnn_on_digits():
    params = read_params(REPOSITORY / "params.yaml")
    assert (params.download.dataset, params.model.backbone) == ("digits", "cnn")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_complete_and_valid(preset: Path):
    read_params(preset)


def test_scientific_notation_is_a_number(changed):
    path = changed(("learning_rate: 0.001", "learning_rate: 1e-3"))
    assert read_params(path).train.learning_rate == 0.001


def test_all_errors_are_shown_at_once_each_with_its_name(changed):
    path = changed(
        ("epochs: 15", "epochz: 15"),
        ("dropout: 0.2", "dropout: 1.5"),
        ("rotation: 0.0", "rotation: half"),
        ("backbone: cnn", "backbone: resnet5"),
    )
    lines = message_of(path).splitlines()
    assert len(lines) == 5
    for fragment in (
        "train.epochs: missing",
        "train.epochz: unknown; did you mean 'epochs'?",
        "train.dropout: found 1.5; it should be less than 1",
        "prepare.rotation: found 'half'",
        "model.backbone: found 'resnet5'; unknown; did you mean 'resnet50'?",
    ):
        assert any(str(path) in line and fragment in line for line in lines), fragment


@pytest.mark.parametrize(
    ("replacements", "fragment"),
    [
        ([("dataset: digits", "dataset: image_folder")], "download.source: found null"),
        (
            [("stop_after: null", "stop_after: 16")],
            "train.stop_after: found 16",
        ),
        ([("source: null", "source: pictures")], "digits come with scikit-learn"),
        ([("sha256: null", f"sha256: {'0' * 64}")], "download.sha256"),
        ([("backbone: cnn", "backbone: resnet50")], "prepare.image_size: found 28; resnet50"),
        ([("backbone: cnn", "backbone: resnet50")], "prepare.color_mode: found 'grayscale'"),
        (
            [
                ("backbone: cnn", "backbone: efficientnet_lite0"),
                ("image_size: 28", "image_size: 64"),
                ("color_mode: grayscale", "color_mode: rgb"),
                ("horizontal_flip: false", "horizontal_flip: true"),
                ("views: 1 ", "views: 16 "),
            ],
            "prepare.views: found 16; train.epochs is 15",
        ),
        (
            [
                ("backbone: cnn", "backbone: efficientnet_lite0"),
                ("image_size: 28", "image_size: 64"),
                ("color_mode: grayscale", "color_mode: rgb"),
                ("views: 1 ", "views: 2 "),
            ],
            "all views are the same",
        ),
        ([("validation_fraction: 0.15", "validation_fraction: 0.9")], "must be left to train on"),
        ([("train:\n", "trane:\n")], "trane: unknown; did you mean 'train'?"),
        ([("seed: 0", "seed: null")], "seed: found None"),
        ([("horizontal_flip: false", "horizontal_flip: 0")], "prepare.horizontal_flip: found 0"),
        ([("evaluate:\n", "evaluate: [\n")], "not valid YAML"),
    ],
)
def test_what_is_refused(changed, replacements, fragment: str):
    assert fragment in message_of(changed(*replacements))


@pytest.mark.parametrize("text", ["", "42", "- 1", "train: 3"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    assert str(path) in message_of(path)


def test_a_missing_file_is_named(tmp_path: Path):
    assert "params.yaml: not found" in message_of(tmp_path / "params.yaml")
