"""Runs in which something else goes wrong than the process being killed."""

import csv
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import Project
from running import Run

DIVERGING = {
    "prepare": {"image_size": 32},
    "model": {"backbone": "efficientnet_lite0", "weights": "nan.weights.h5", "fine_tune_layers": 1},
}
RESULTS = ("data", "models", "dvclive/train", "dvclive/evaluate")


@pytest.fixture
def project(trained_project: Project) -> Project:
    return trained_project


@pytest.fixture(scope="session")
def nan_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of efficientnet_lite0, one of them NaN in the last layer."""
    from image_classifier.efficientnet_lite0 import build_efficientnet_lite0

    network = build_efficientnet_lite0((32, 32, 3))
    kernel = network.get_layer("head_conv").weights[0]
    values = kernel.numpy()
    values[0, 0, 0, 0] = np.nan
    kernel.assign(values)
    path = tmp_path_factory.mktemp("weights") / "nan.weights.h5"
    network.save_weights(path)
    return path


def check_one_line(output: str, *fragments: str) -> None:
    """The output has one line that is an error of this repository, with the fragments in it."""
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    for fragment in fragments:
        assert fragment in line, line
    assert "Traceback" not in output, output


@pytest.mark.fault("Training", "loss is NaN", "one line, exit code not 0, what was logged is kept")
def test_a_training_that_diverges_ends(project: Project, nan_weights: Path):
    shutil.copy(nan_weights, project.root / "nan.weights.h5")
    project.set_params(DIVERGING)
    known = project.experiments()
    done = project.run("dvc", "exp", "run", fails=True)
    check_one_line(done.stderr + done.stdout, "train.learning_rate: found 0.005", "val_loss is nan")
    loss = project.root / "dvclive/train/plots/metrics/train/loss.tsv"
    assert loss.read_text().splitlines() == ["step\tloss", "1\tnan"]
    assert project.experiments() == known
    # A script by itself saves no experiment of it either.
    project.run("python", "src/train.py", fails=True)
    assert project.experiments() == known


@pytest.mark.fault("Training", "loss is NaN in a trial of a sweep", "a failed trial, others go on")
def test_a_trial_that_diverges_fails_alone(project: Project, nan_weights: Path):
    shutil.copy(nan_weights, project.root / "nan.weights.h5")
    project.set_params(DIVERGING | {"model": {**DIVERGING["model"], "weights": "random"}})
    (project.root / "sweeps/weights.yaml").write_text(
        """
metric: accuracy
sampler: grid
pruner: none
trials: 2
seed: 0
parameters:
  model.weights: {choices: [random, nan.weights.h5]}
"""
    )
    project.commit()
    project.run("python", "src/sweep.py", "sweeps/weights.yaml")
    with (project.root / "sweeps/weights/trials.csv").open() as file:
        states = {row["model.weights"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"random": "complete", "nan.weights.h5": "fail"}


@pytest.mark.parametrize(
    ("stage", "moment", "path"),
    [
        pytest.param("train", "Epoch 1/", "src/image_classifier/networks.py"),
        pytest.param("train", "Epoch 1/", "params.yaml", marks=pytest.mark.slow),
        pytest.param("train", "Epoch 1/", "data/prepared/train.npy", marks=pytest.mark.slow),
        pytest.param("evaluate", "agrees with", "src/evaluate.py", marks=pytest.mark.slow),
        pytest.param("prepare", "preparing train", "src/image_classifier/images.py"),
        pytest.param("prepare", "preparing train", "data/raw/red/00.png", marks=pytest.mark.slow),
        pytest.param("download", "checking pictures", "src/download.py", marks=pytest.mark.slow),
    ],
)
@pytest.mark.fault(
    "Provenance",
    "sources, parameters or data edited while a stage runs",
    "one line that names them, nothing recorded",
)
def test_what_is_edited_during_a_run_is_noticed(
    project: Project, stage: str, moment: str, path: str
):
    project.set_params(
        {
            "download": {"dataset": "digits", "source": None},
            "prepare": {"image_size": 32},
            "model": {"backbone": "efficientnet_lite0"},
        }
        if stage in ("download", "prepare")
        else {"train": {"epochs": 4}}
    )
    if stage == "prepare":
        project.run("dvc", "repro", "download")
    edited = project.root / path
    with Run(project, ("dvc", "exp", "run")) as run:
        run.seconds_until(f"Running stage '{stage}'")
        run.seconds_until(moment)
        if path == "params.yaml":
            project.set_params({"train": {"dropout": 0.5}})
        elif edited.suffix == ".py":
            edited.write_text(edited.read_text() + "\n# edited\n")
        else:
            edited.write_bytes(edited.read_bytes())
        assert run.process.wait() != 0
    name = "train.dropout" if path == "params.yaml" else path
    check_one_line(run.output, f"{name} changed while {stage} was running")
    again = project.run("dvc", "repro", "--dry").stdout
    assert f"Running stage '{stage}'" in again


@pytest.mark.parametrize(
    ("stage", "limit", "fragment"),
    [
        ("prepare", 20_000, "data/.prepare/prepared/train.npy: "),
        ("train", 60_000, "models/model.keras: "),
        ("evaluate", 20_000, "File too large"),
    ],
)
@pytest.mark.fault(
    "Disk", "a file cannot be written whole", "one line, what was there is still there"
)
def test_a_disk_that_is_full_costs_nothing(project: Project, stage: str, limit: int, fragment: str):
    before = project.files("data", "models", "dvclive/evaluate")
    done = subprocess.run(
        [sys.executable, f"src/{stage}.py"],
        cwd=project.root,
        env={**project.environment, "DVCLIVE_TEST": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    check_one_line(done.stderr, fragment)
    assert project.files("data", "models", "dvclive/evaluate") == before
