"""What DVC's extension for VS Code shows while an experiment runs."""

import json
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from helpers.project import Project
from helpers.running import Run

EPOCHS = 8
PLOTS = "dvclive/train/plots"


def stop_when(condition: Callable[[], bool], training: Run) -> None:
    """Let the training go on, and halt all its processes when a condition comes true."""
    training.signal(signal.SIGCONT, to_all=True)
    training.wait_for(condition)
    training.signal(signal.SIGSTOP, to_all=True)


def shown(project: Project) -> int:
    """Run what the extension runs; returns how many epochs it has to show."""
    options = ("--split", "--json", "-o", ".dvc/tmp/plots")
    plots = json.loads(project.run("dvc", "plots", "diff", *options).stdout)
    assert not plots.get("errors")
    project.experiments()  # fails where there is an error entry
    assert "train" in project.run("dvc", "stage", "list").stdout
    json.loads(project.run("dvc", "data", "status", "--granular", "--unchanged", "--json").stdout)

    counts = set()
    for name in ("Accuracy", "Loss", "Learning rate"):
        (plot,) = plots["data"][name]
        rows = plot["anchor_definitions"]["<DVC_METRIC_DATA>"]
        rows = [row for row in rows if row["rev"] == "workspace"]
        counts.add(len({row["step"] for row in rows}))
    (epochs,) = counts
    # DVC shows images of the run before until there are newer ones.
    assert set(project.files(f"{PLOTS}/images")) <= set(plots["data"])
    return epochs


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
@pytest.mark.slow
def test_every_chart_grows_while_it_trains(project: Project):
    # What tells the extension to look again.
    signal_file = project.root / ".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED"
    confusion_matrix = project.root / PLOTS / "sklearn/confusion_matrix.json"

    def completed() -> int:
        with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            return json.loads((project.root / "dvclive/train/metrics.json").read_text())["step"]
        return 0

    def begun() -> bool:
        with suppress(FileNotFoundError):  # for a moment, between two runs
            return confusion_matrix.read_text().strip() == "[]"
        return False

    assert shown(project) == 2  # of the run before
    command = ("dvc", "exp", "run", "-S", f"train.epochs={EPOCHS}")
    with Run(project, command) as training:
        stop_when(begun, training)
        assert shown(project) == 0
        stop_when(lambda: completed() >= 1, training)
        early = completed()
        assert shown(project) in (early, early + 1) and early < EPOCHS
        stop_when(lambda: completed() == EPOCHS, training)
        assert shown(project) == EPOCHS
        stop_when(lambda: not signal_file.exists(), training)  # the stage is over
        assert shown(project) == EPOCHS
        training.signal(signal.SIGCONT, to_all=True)
        training.finish()
    assert shown(project) == EPOCHS
    # The newest sheet and the one of the worst; not those of all epochs.
    assert (project.root / "dvclive/train/report.html").read_text().count("data:image") == 2
