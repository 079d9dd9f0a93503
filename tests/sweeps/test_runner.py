"""Trials are saved as experiments with short names, which the extension for VS Code shows."""

import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.project import Project
from image_classifier.outputs.git import git
from image_classifier.sweeps import table
from image_classifier.sweeps.runner import Snapshot, SweepRunner, identify, short_name
from image_classifier.sweeps.study import open_study, write_trials
from image_classifier.sweeps.sweep_file import Sweep
from image_classifier.sweeps.trials import TrialError

SIGNAL = Path(".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED")
SWEEP = Sweep(
    metric="accuracy",
    sampler="random",
    pruner="none",
    trials=3,
    seed=0,
    parameters={"train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
)


class QuickPool:
    """A `TrialPool` whose trials end at once: the first fails."""

    def __init__(self) -> None:
        self.parameters: list[dict] = []

    def run(self, parameters: dict, is_wanted: Callable[[int, dict], bool]) -> dict:
        self.parameters.append(parameters)
        if len(self.parameters) == 1:
            raise TrialError("no luck")
        return {"tree": git("rev-parse", "HEAD^{tree}"), "metrics": {"accuracy": 0.5, "loss": 0.5}}


def snapshot_of_head() -> Snapshot:
    head = git("rev-parse", "HEAD")
    return Snapshot(parent=head, source=head, cache="")


@pytest.mark.usefixtures("inside_project")
def test_each_saved_trial_has_a_name_and_refreshes_the_table(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    study = open_study(tmp_path / "trials.sqlite3", "some", SWEEP, epochs=1)
    pool = QuickPool()
    runner = SweepRunner(study, SWEEP, pool, snapshot_of_head(), "lr-29b9a")
    lines = []
    with ThreadPoolExecutor(1) as executor:
        for trial in runner.run(executor, jobs=1, trial_count=3, deadline=math.inf):
            # The extension for VS Code reads experiments again whenever this file is written.
            assert SIGNAL.exists() == (trial.number > 0)
            SIGNAL.unlink(missing_ok=True)
            assert len(project.experiment_commits()) == trial.number
            lines.append(table.line("1/3", trial, SWEEP))
    assert [line.split()[1] for line in lines] == ["failed", "001-lr-29b9a", "002-lr-29b9a"]
    assert sorted(project.experiment_commits()) == ["001-lr-29b9a", "002-lr-29b9a"]
    listed = project.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert {"001-lr-29b9a", "002-lr-29b9a"} <= set(listed)

    # The same number everywhere.
    write_trials(study, project.root / "trials.csv")
    for line, row, values in zip(lines, project.rows("trials.csv"), pool.parameters, strict=True):
        text = str(values["train.learning_rate"])
        assert f" {text}" in line and row["train.learning_rate"] == text
        assert len(text) <= 9


@pytest.mark.parametrize(
    ("sweep", "start"),
    [
        ("learning_rate", "lr-"),
        ("quick", "qui-"),
        ("Adam vs. SGD, wide", "avs-"),
        ("learning-rate-2", "lr2-"),
        ("\u0416", ""),
    ],
)
def test_a_short_name_identifies_its_sweep(sweep: str, start: str):
    name = short_name(sweep, "0123456789ab")
    assert name.startswith(start) and len(f"000-{name}") <= 13
    assert name == short_name(sweep, "0123456789ab")
    assert (
        len({name, short_name(sweep, "0123456789ac"), short_name(f"{sweep}.", "0123456789ab")}) == 3
    )
    git("check-ref-format", f"refs/exps/000-{name}")


def test_sweeps_of_equal_projects_in_one_repository_differ(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nested = project.nest(tmp_path / "larger")
    shutil.copytree(nested.root, nested.top / "copy")
    nested.commit()
    lock_file = tmp_path / "dvc.lock"
    lock_file.write_text("stages: {prepare: {outs: [{md5: 0123}]}}")
    identities = []
    for folder in (nested.root, nested.top / "copy", nested.root):
        monkeypatch.chdir(folder)
        identities.append(identify(snapshot_of_head(), lock_file, SWEEP))
    assert identities[0] == identities[2] != identities[1]
