"""Evaluation, prediction and review run where TensorFlow and Keras cannot be imported."""

from pathlib import Path

import pytest

from helpers.made_training import build_training, save, write_data
from helpers.project import Project
from image_classifier.common.params import read_params

MODELS = {
    "frozen": {"backbone": "efficientnet_lite0", "weights": "random"},
    "cnn": {"backbone": "cnn"},
}
COMMANDS = {
    "evaluate": "test.accuracy",
    "predict data/raw/cat/00.png": "data/raw/cat/00.png",
    "review": "review.html: 18 images",
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("inside_project")
def test_commands_after_the_training_load_no_tensorflow(
    project: Project, model: str, tmp_path: Path
):
    project.set_params({"prepare": {"image_size": 32}, "model": MODELS[model]})
    params = read_params()
    write_data(params)
    save(build_training(params))

    for name in ("tensorflow", "keras"):
        path = tmp_path / "hidden" / name / "__init__.py"
        path.parent.mkdir(parents=True)
        path.write_text(f"raise RuntimeError('{name} was imported')\n")
    project.environment["PYTHONPATH"] = str(tmp_path / "hidden")
    for command, printed in COMMANDS.items():
        script, *arguments = command.split()
        assert printed in project.run("python", f"src/{script}.py", *arguments).stdout
    assert project.rows("dvclive/evaluate/predictions.csv")
    done = project.run("python", "src/train.py", fails=True)
    assert "was imported" in done.stderr  # otherwise the test would show nothing


DAMAGED = {
    "model.xml": "error: models/openvino/model.xml is damaged: ",
    "model.bin": "error: models/openvino/model.xml is damaged: ",
    "images.csv": "error: models/openvino/model.xml: trained on other classes than those in data",
}


@pytest.mark.fault(
    "Data",
    "a damaged model, or one of other classes, in `evaluate`",
    "one-line error that names it, the last results stay",
)
@pytest.mark.usefixtures("inside_project")
def test_a_damaged_model_is_named(project: Project, record_property):
    project.set_params({"prepare": {"image_size": 32}, "model": MODELS["cnn"]})
    params = read_params()
    write_data(params)
    save(build_training(params))
    project.run("python", "src/evaluate.py")
    before = project.files("dvclive")
    for name, message in DAMAGED.items():
        folder = "data/prepared" if name == "images.csv" else "models/openvino"
        path = project.root / folder / name
        content = path.read_bytes()
        halved = content[: len(content) // 2]
        path.write_bytes(content.replace(b"eel", b"elk") if name == "images.csv" else halved)
        assert project.error("python", "src/evaluate.py").startswith(message)
        path.write_bytes(content)
    assert project.files("dvclive") == before
    record_property("injections", len(DAMAGED))
