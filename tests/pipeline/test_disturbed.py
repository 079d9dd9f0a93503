"""Runs that fail for other reasons than a killed process."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from helpers.project import ALL_STAGES, Project, one_error
from helpers.running import Run

DIVERGING = {
    "prepare": {"image_size": 32},
    "model": {"backbone": "efficientnet_lite0", "weights": "nan.weights.h5", "fine_tune_layers": 1},
}


@pytest.fixture(scope="session")
def nan_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of efficientnet_lite0, one of them NaN in the last layer."""
    from image_classifier.networks.efficientnet_lite import build_efficientnet_lite

    network = build_efficientnet_lite("efficientnet_lite0", (32, 32, 3))
    kernel = [weight for weight in network.weights if weight.path.endswith("/kernel")][-1]
    values = kernel.numpy()
    values[0, 0, 0, 0] = np.nan
    kernel.assign(values)
    path = tmp_path_factory.mktemp("weights") / "nan.weights.h5"
    network.save_weights(path)
    return path


@pytest.mark.fault("Training", "loss is NaN", "one-line error, exit code not 0, the log is kept")
@pytest.mark.slow
def test_a_training_that_diverges_fails(project: Project, nan_weights: Path):
    shutil.copy(nan_weights, project.root / "nan.weights.h5")
    project.set_params(DIVERGING)
    known = project.experiments()
    tested = project.files("dvclive/evaluate")
    assert tested
    done = project.run("dvc", "exp", "run", fails=True)
    line = one_error(done.stderr + done.stdout)
    assert "train.learning_rate: found 0.005," in line and "loss is nan" in line
    loss = project.root / "dvclive/train/plots/metrics/train/loss.tsv"
    assert loss.read_text().splitlines() == ["step\tloss", "1\tnan"]
    assert project.files("dvclive/evaluate") == tested  # of the model that is still there
    assert project.experiments() == known
    # Running the script directly saves no experiment of it either.
    project.run("python", "src/train.py", fails=True)
    assert project.experiments() == known


@pytest.mark.fault(
    "Training", "loss is NaN in a trial of a sweep", "the trial fails, the other trials continue"
)
@pytest.mark.exhaustive
def test_a_trial_that_diverges_fails_alone(project: Project, nan_weights: Path):
    shutil.copy(nan_weights, project.root / "nan.weights.h5")
    project.set_params(DIVERGING | {"model": {**DIVERGING["model"], "weights": "random"}})
    project.write_sweep("model.weights: {choices: [random, nan.weights.h5]}", trials=2)
    project.run("python", "src/sweep.py", "sweeps/quick.yaml")
    states = {trial["model.weights"]: trial["state"] for trial in project.trials()}
    assert states == {"random": "complete", "nan.weights.h5": "fail"}


FIRST_EPOCH = ".dvc/tmp/checkpoints/*/state.npz"
long = partial(pytest.param, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(
    ("stage", "moment", "path"),
    [
        # A file that the stage writes in the middle of its work.
        ("train", FIRST_EPOCH, "src/image_classifier/training/classifier.py"),
        long("train", FIRST_EPOCH, "params.yaml"),
        long("train", FIRST_EPOCH, "data/prepared/train-00000.npy"),
        long("evaluate", ".dvc/tmp/logging", "src/evaluate.py"),
        ("prepare", "data/.prepare/prepared", "src/image_classifier/common/images.py"),
        long("prepare", "data/.prepare/prepared", "data/raw/3/0003.png"),
        long("download", "data/.download/raw", "src/download.py"),
    ],
)
@pytest.mark.fault(
    "Provenance",
    "sources, parameters or data edited while a stage runs",
    "one-line error that names them, nothing is recorded",
)
def test_an_edit_during_a_run_is_detected(project: Project, stage: str, moment: str, path: str):
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
        run.wait_for(lambda: any(project.root.glob(moment)))
        if path == "params.yaml":
            project.set_params({"train": {"dropout": 0.5}})
        elif edited.suffix == ".py":
            edited.write_text(edited.read_text() + "\n# edited\n")
        else:
            edited.write_bytes(edited.read_bytes())
        assert run.process.wait() != 0
    name = "train.dropout" if path == "params.yaml" else path
    assert f"{name} changed while {stage} was running" in one_error(run.output)
    assert recorded(project, stage) == before


def recorded(project: Project, stage: str) -> dict | None:
    return YAML(typ="safe").load(project.root / "dvc.lock")["stages"].get(stage)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate disk of 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("creating a small disk requires root")
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
@pytest.mark.fault("Disk", "full during a stage", "one-line error, earlier results are kept")
def test_a_full_disk_damages_no_outputs(
    project: Project, small_disk: Path, stage: str, free: int, named: str
):
    project = project.copy(small_disk / "project")
    project.set_params(
        {
            "prepare": {"test_fraction": 0.2},
            "model": {"dense_units": 1024},
            "train": {"log_images": 0},
        }
    )
    for earlier in ALL_STAGES[: ALL_STAGES.index(stage)]:
        project.run("python", f"src/{earlier}.py")
    kept = ("data/raw", "data/prepared", "models", "dvclive/evaluate")
    before = project.files(*kept)
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - free)
    project.environment["DVC_ROOT"] = str(project.root)  # as if DVC ran the stage
    line = project.error("python", f"src/{stage}.py")
    assert named in line and "o space left on" in line
    assert project.files(*kept) == before
    ballast.unlink()
    project.run("python", f"src/{stage}.py")


@pytest.mark.fault(
    "Memory", "too little to prepare the images", "one-line error with the memory needed"
)
def test_too_little_memory_is_reported(project: Project):
    before = project.files("data", "models")
    project.set_params({"prepare": {"image_size": 2048}})
    command = "ulimit -v 1500000; exec python src/prepare.py"  # KiB of virtual memory
    line = project.error("bash", "-c", command)
    assert "not enough memory: " in line and "2048, 2048, 3" in line
    assert project.files("data", "models") == before
