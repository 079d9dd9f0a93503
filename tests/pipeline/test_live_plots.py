"""The plots that DVC's extension for VS Code shows while an experiment runs."""

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.project import Project
from helpers.running import Run

EPOCHS = 8
PLOTS = "dvclive/train/plots"
BEST, TEST = "dvclive/train/best.json", "dvclive/evaluate/metrics.json"


def stop_when(condition: Callable[[], bool], training: Run) -> None:
    """Continue the training, and pause all its processes when a condition is true."""
    training.signal(signal.SIGCONT, to_all=True)
    training.wait_for(condition)
    training.signal(signal.SIGSTOP, to_all=True)


def shown(project: Project) -> int:
    """Run the extension's commands, and return the number of epochs that they give."""
    options = ("--split", "--json", "-o", ".dvc/tmp/plots")
    plots = json.loads(project.run("dvc", "plots", "diff", *options).stdout)
    assert not plots.get("errors")
    project.experiments()  # fails if there is an error entry
    assert "train" in project.run("dvc", "stage", "list").stdout
    json.loads(project.run("dvc", "data", "status", "--granular", "--unchanged", "--json").stdout)

    counts = set()
    for name in ("Accuracy", "Loss", "Learning rate"):
        (plot,) = plots["data"][name]
        rows = plot["anchor_definitions"]["<DVC_METRIC_DATA>"]
        rows = [row for row in rows if row["rev"] == "workspace"]
        counts.add(len({row["step"] for row in rows}))
    (epochs,) = counts
    assert set(project.files(f"{PLOTS}/images")) <= set(plots["data"])
    return epochs


def images_shown(project: Project) -> dict[str, bytes]:
    """Path -> content of the images that the extension shows for the workspace."""
    options = ("--split", "--json", "-o", ".dvc/tmp/plots")
    data = json.loads(project.run("dvc", "plots", "diff", *options).stdout)["data"]
    return {
        name: Path(image["url"]).read_bytes()
        for name, images in data.items()
        for image in images
        if "url" in image and image["revisions"] == ["workspace"]
    }


def metrics_shown(project: Project) -> dict[str, dict]:
    """Path -> metrics of the workspace."""
    rows = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    metrics = rows[0]["data"]["metrics"]
    return {path: entry["data"] for path, entry in metrics.items()}


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
@pytest.mark.slow
def test_every_chart_grows_while_it_trains(project: Project):
    # The extension refreshes its plots when this file changes.
    signal_file = project.root / ".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED"
    confusion_matrix = project.root / PLOTS / "sklearn/confusion_matrix.json"
    logged_params = project.root / "dvclive/train/params.yaml"

    def completed() -> int:
        with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            return json.loads((project.root / "dvclive/train/metrics.json").read_text())["step"]
        return 0

    def begun() -> bool:
        with suppress(FileNotFoundError):  # missing for a moment between two runs
            return confusion_matrix.read_text().strip() == "[]" and logged_params.exists()
        return False

    assert shown(project) == 2  # from the previous run
    earlier = images_shown(project)
    assert len(earlier) == 4
    sheet = f"{PLOTS}/images/validation_predictions/{{}}.jpg".format
    command = ("dvc", "exp", "run", "-S", f"train.epochs={EPOCHS}")
    with Run(project, command) as training:
        stop_when(begun, training)
        assert shown(project) == 0
        assert metrics_shown(project) == {BEST: {}, TEST: {}}
        images = images_shown(project)
        assert images.keys() == earlier.keys()
        assert all(images[name] != earlier[name] for name in earlier)
        placeholder = images[sheet(2)]
        stop_when(lambda: completed() >= 1, training)
        early = completed()
        assert shown(project) in (early, early + 1) and early < EPOCHS
        assert metrics_shown(project)[BEST]["best"]["eval"]["accuracy"] > 0
        assert metrics_shown(project)[TEST] == {}
        reached = [images_shown(project)[sheet(epoch)] != placeholder for epoch in (1, 2)]
        assert reached[0] and (early > 1 or not reached[1])
        stop_when(lambda: completed() == EPOCHS, training)
        assert shown(project) == EPOCHS
        stop_when(lambda: not signal_file.exists(), training)  # the stage is over
        assert shown(project) == EPOCHS
        training.signal(signal.SIGCONT, to_all=True)
        training.finish()
    assert shown(project) == EPOCHS
    assert set(metrics_shown(project)[TEST]["test"]) >= {"accuracy", "loss"}
    images = images_shown(project)
    assert placeholder not in images.values()
    assert {sheet(1), sheet(EPOCHS)} < images.keys() and len(images) in (9, 10)
    # The latest sheet of predictions and the sheet of the worst, not the sheets of all epochs.
    assert (project.root / "dvclive/train/report.html").read_text().count("data:image") == 2
