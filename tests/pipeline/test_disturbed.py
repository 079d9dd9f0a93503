"""Runs in which something else goes wrong than the process being killed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from conftest import Project
from running import Run

DIVERGING = {
    "prepare": {"image_size": 32},
    "model": {"backbone": "efficientnet_lite0", "weights": "nan.weights.h5", "fine_tune_layers": 1},
}


@pytest.fixture
def project(trained_project: Project) -> Project:
    return trained_project


@pytest.fixture(scope="session")
def nan_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of efficientnet_lite0, one of them NaN in the last layer."""
    from image_classifier.efficientnet_lite0 import build_efficientnet_lite0

    network = build_efficientnet_lite0((32, 32, 3))
    kernel = [weight for weight in network.weights if weight.path.endswith("/kernel")][-1]
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
    check_one_line(done.stderr + done.stdout, "train.learning_rate: found 0.005,", "loss is nan")
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
    states = {trial["model.weights"]: trial["state"] for trial in project.trials("weights")}
    assert states == {"random": "complete", "nan.weights.h5": "fail"}


@pytest.mark.parametrize(
    ("stage", "moment", "path"),
    [
        pytest.param("train", "Epoch 1/", "src/image_classifier/networks.py"),
        pytest.param("train", "Epoch 1/", "params.yaml", marks=pytest.mark.slow),
        pytest.param("train", "Epoch 1/", "data/prepared/train-00000.npy", marks=pytest.mark.slow),
        pytest.param("evaluate", "agrees with", "src/evaluate.py", marks=pytest.mark.slow),
        pytest.param("prepare", "preparing train", "src/image_classifier/images.py"),
        pytest.param("prepare", "preparing train", "data/raw/3/0003.png", marks=pytest.mark.slow),
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
    before = recorded(project, stage)
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
    assert recorded(project, stage) == before


def recorded(project: Project, stage: str) -> dict | None:
    """What dvc.lock says of a stage."""
    return YAML(typ="safe").load(project.root / "dvc.lock")["stages"].get(stage)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only the administrator may make a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(
    ("stage", "free", "named"),
    [
        ("download", 30_000, "data/.download/raw"),
        ("prepare", 60_000, "data/.prepare/prepared/"),
        ("train", 1_000_000, "state.npz"),
        ("evaluate", 500_000, "dvclive/evaluate: "),
    ],
)
@pytest.mark.fault("Disk", "full during a stage", "one line, what there was is still there")
def test_a_full_disk_costs_nothing(
    project: Project, small_disk: Path, stage: str, free: int, named: str
):
    root = shutil.copytree(project.root, small_disk / "project", symlinks=True)
    project = Project(root, Path(project.environment["HOME"]))
    project.set_params(
        {
            "prepare": {"test_fraction": 0.2},
            "model": {"dense_units": 1024},
            "train": {"log_images": 0},
        }
    )
    stages = ["download", "prepare", "train", "evaluate"]
    for earlier in stages[: stages.index(stage)]:
        project.run("python", f"src/{earlier}.py")
    kept = ("data/raw", "data/prepared", "models", "dvclive/evaluate")
    before = project.files(*kept)
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - free)
    project.environment["DVC_ROOT"] = str(project.root)  # as DVC runs it
    done = project.run("python", f"src/{stage}.py", fails=True)
    assert done.returncode == 1
    check_one_line(done.stderr, named, "o space left on")
    assert project.files(*kept) == before
    ballast.unlink()
    project.run("python", f"src/{stage}.py")


@pytest.mark.fault("Memory", "too little to prepare the pictures", "one line with what was needed")
def test_too_little_memory_is_said(project: Project):
    before = project.files("data", "models")
    project.set_params({"prepare": {"image_size": 2048}})
    command = "ulimit -v 1500000; exec python src/prepare.py"  # KiB, of addresses
    done = project.run("bash", "-c", command, fails=True)
    assert done.returncode == 1
    check_one_line(done.stderr, "not enough memory: ", "2048, 2048, 3")
    assert project.files("data", "models") == before
