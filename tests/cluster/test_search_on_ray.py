"""Searches on the machines of a Ray cluster."""

import csv
import re
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from conftest import Project
from machines import Machines
from running import Run

GRID = """
metric: loss
sampler: grid
pruner: none
trials: 8
seed: 0
parameters:
  train.learning_rate: {choices: [0.01, 0.001]}
  train.batch_size: {choices: [4, 8]}
"""


@pytest.fixture
def search(trained_project: Project) -> Project:
    """A project with a quick search, committed."""
    (trained_project.root / "sweeps/quick.yaml").write_text(GRID)
    trained_project.commit()
    return trained_project


def trials_of(project: Project) -> list[dict[str, str]]:
    with (project.root / "sweeps/quick/trials.csv").open() as file:
        return list(csv.DictReader(file))


def files_of(project: Project, trial: dict[str, str]) -> dict[str, bytes]:
    """All that a trial has left, but for what the machine was doing."""
    project.run("git", "reset", "--quiet", "--hard")
    project.run("dvc", "exp", "apply", trial["experiment"])
    files = project.files("models", "dvclive")
    files |= {name: (project.root / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    return {path: content for path, content in files.items() if "dvclive/system/" not in path}


def test_trials_on_a_cluster_are_those_of_a_local_search(search: Project, machines: Machines):
    command = ("python", "src/sweep.py", "sweeps/quick.yaml")
    done = search.run(*command, "--ray", machines.address)
    assert done.stderr == ""
    there = sorted(trials_of(search), key=lambda trial: int(trial["number"]))
    assert [trial["state"] for trial in there] == ["complete"] * 4
    assert search.run("git", "status", "--short").stdout == ""
    print(done.stdout)
