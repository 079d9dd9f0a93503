"""Runs repeated in another folder, environment or in parallel give the same bytes."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from helpers.project import (
    ALL_STAGES,
    AUGMENTED,
    ON_FEATURES,
    OTHER_KERAS,
    OTHER_VARIABLES,
    RECIPE,
    Project,
    differing,
    layouts,
    stages_run,
)
from helpers.running import Run

RESULTS = ("data", "models", "dvclive/train", "dvclive/evaluate")
NAMES = ("first", "second")  # of experiments
LARGEST_DIFFERENCE = 1e-4  # of a probability
PREPARED = {"image_size": 32, **AUGMENTED}
NETWORKS = {
    "from scratch": {"prepare": PREPARED, "train": RECIPE},
    "fine-tuning": {
        "prepare": PREPARED,
        "model": {"backbone": "efficientnet_lite0", "fine_tune_layers": 2},
    },
    "on features": {**ON_FEATURES, "train": RECIPE},
}
# Python runs this sitecustomize.py at its start: it reverses the order of directory listings.
REVERSE = """
import os

listdir, scandir = os.listdir, os.scandir


class ReversedScan:
    def __init__(self, *path):
        with scandir(*path) as entries:
            self._entries = iter(list(entries)[::-1])

    def __iter__(self):
        return self._entries

    def __next__(self):
        return next(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    close = __exit__


os.listdir = lambda *path: listdir(*path)[::-1]
os.scandir = ReversedScan
"""


def run_stages(project: Project, **environment: str) -> dict[str, bytes]:
    """Run all stage scripts from another folder, and return their outputs."""
    away = Project(project.root.parent, Path(project.environment["HOME"]))
    away.environment = {**project.environment, "DVC_ROOT": str(project.root), **environment}
    for stage in ALL_STAGES:
        away.run("python", str(project.root / f"src/{stage}.py"))
    return project.files(*RESULTS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.fault(
    "Determinism",
    "another folder, hash seed, order of files on disk",
    "byte-identical outputs of every stage",
)
def test_outputs_are_the_same_bytes(project: Project, network: str, tmp_path: Path):
    project.set_params(NETWORKS[network])
    first = run_stages(project, PYTHONHASHSEED="1")
    (tmp_path / "reverse").mkdir()
    (tmp_path / "reverse/sitecustomize.py").write_text(REVERSE)
    project.environment["PYTHONPATH"] = str(tmp_path / "reverse")
    assert "Reversed" in project.run("python", "-c", "import os; print(os.scandir)").stdout
    assert not differing(first, run_stages(project, PYTHONHASHSEED="2"))


@pytest.mark.parametrize(
    "network",
    [
        "from scratch",
        pytest.param("fine-tuning", marks=pytest.mark.exhaustive),
        pytest.param("on features", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.fault(
    "Determinism",
    "settings for other projects, in the environment and ~/.keras/keras.json",
    "byte-identical outputs of every stage",
)
def test_settings_for_other_projects_change_nothing(project: Project, network: str):
    project.set_params(NETWORKS[network])
    first = run_stages(project)
    keras_home = Path(project.environment["HOME"], ".keras")
    keras_home.mkdir(exist_ok=True)
    keras_json = keras_home / "keras.json"
    keras_json.write_text(json.dumps(OTHER_KERAS))
    try:
        assert not differing(first, run_stages(project, **OTHER_VARIABLES))
    finally:
        keras_json.unlink()  # other tests share this home


@pytest.mark.fault(
    "Determinism",
    "a comment in params.yaml, and new modification times of all files",
    "nothing runs again",
)
def test_comments_and_modification_times_run_nothing(project: Project):
    with (project.root / "params.yaml").open("a") as file:
        file.write("# a comment\n")
    for path in project.root.rglob("*"):
        if path.is_file() and ".git" not in path.parts and ".dvc" not in path.parts:
            path.touch()
    assert stages_run(project.run("dvc", "repro").stdout) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.fault(
    "Determinism",
    "one core instead of all",
    f"data are byte-identical, probabilities within {LARGEST_DIFFERENCE:g} after two epochs",
)
def test_the_number_of_cores_hardly_matters(project: Project, network: str):
    project.set_params(NETWORKS[network])
    first = run_stages(project)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # child processes inherit the one core
    try:
        second = run_stages(project)
    finally:
        os.sched_setaffinity(0, allowed)
    assert not [path for path in differing(first, second) if path.startswith("data/")]
    expected, found = (probabilities(files) for files in (first, second))
    assert expected.keys() == found.keys()
    for path in expected:
        assert found[path] == pytest.approx(expected[path], abs=LARGEST_DIFFERENCE)


def probabilities(files: dict[str, bytes]) -> dict[str, list[float]]:
    content = files["dvclive/evaluate/predictions.csv"].decode()
    rows = list(csv.reader(io.StringIO(content, newline="")))[1:]
    return {path: [float(figure) for figure in figures] for path, _, _, *figures in rows}


@layouts("top", "folder")
@pytest.mark.slow
@pytest.mark.parametrize(
    "rates",
    [
        pytest.param(("0.002", "0.003"), id="different"),
        pytest.param(("0.002", "0.002"), id="equal", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.fault(
    "Two at once",
    "two `dvc exp run --temp` and `report.py` at the same time",
    "results as if run alone, the report is written",
)
def test_two_runs_and_a_report(project: Project, rates: tuple[str, str]):
    before = project.files(*RESULTS)
    commands = [
        ("dvc", "exp", "run", "--temp", "--name", name, "-S", f"train.learning_rate={rate}")
        for name, rate in zip(NAMES, rates, strict=True)
    ]
    with Run(project, commands[0]) as first, Run(project, commands[1]) as second:
        first.seconds_until("Running stage 'train'")
        second.seconds_until("Running stage 'train'")
        project.run("python", "src/report.py", "HEAD")
        first.finish()
        second.finish()
    assert project.files(*RESULTS) == before
    check_experiments(project, rates)


@pytest.mark.exhaustive
@pytest.mark.fault("Two at once", "a queue with two jobs", "results as if run alone")
def test_a_queue_with_two_jobs(project: Project):
    before = project.files(*RESULTS)
    rates = ("0.002", "0.003")
    for name, rate in zip(NAMES, rates, strict=True):
        change = f"train.learning_rate={rate}"
        project.run("dvc", "exp", "run", "--queue", "--name", name, "-S", change)
    project.run("dvc", "queue", "start", "--jobs", "2")
    try:
        for name in NAMES:
            project.run("dvc", "queue", "logs", "--follow", name)
    finally:
        project.run("dvc", "queue", "stop", "--kill")
    assert project.files(*RESULTS) == before
    check_experiments(project, rates)


def check_experiments(project: Project, rates: tuple[str, str]) -> None:
    """Check that each experiment equals a run of the same parameters alone in the workspace."""
    for name, rate in zip(NAMES, rates, strict=True):
        change = f"train.learning_rate={rate}"
        project.run("dvc", "exp", "run", "--name", f"alone-{name}", "-S", change)
        commits = project.experiment_commits()
        project.check_same(commits[name], commits[f"alone-{name}"])
        project.check_other_files(commits[name])
