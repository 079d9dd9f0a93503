"""Sweeps: src/sweep.py, and DVC's own queue."""

import re
import signal
import sqlite3
from contextlib import closing, suppress

import psutil
import pytest
from ruamel.yaml import YAML

from helpers.project import Project, differing, layouts, sweep_text
from helpers.running import Run, wait_until

SEARCHED = (
    "train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}",
    "train.batch_size: {choices: [4, 8]}",
)
SETTINGS = {"metric": "loss", "sampler": "random", "trials": 3}


@pytest.fixture
def sweep(trained_project: Project) -> Project:
    """A project with a quick sweep, committed."""
    trained_project.write_sweep(*SEARCHED, **SETTINGS)
    return trained_project


def names_of(project: Project) -> list[str]:
    return project.run("dvc", "exp", "list", "--name-only").stdout.split()


@layouts("folder", "top")
def test_trials_are_experiments_that_repeat(sweep: Project):
    before = sweep.files("models", "dvclive", "data", ".dvc/config")
    sweep.run("python", "src/sweep.py", "sweeps/quick.yaml", "--jobs", "2")
    assert sweep.files("models", "dvclive", "data", ".dvc/config") == before
    assert sweep.run("git", "status", "--short").stdout == ""
    assert "up to date" in sweep.run("dvc", "status").stdout

    trials = sweep.trials()
    assert sorted(names_of(sweep)) == sorted(trial["experiment"] for trial in trials)
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    for image in ("history", "importance", "parallel_coordinates"):
        assert (sweep.root / f"sweeps/quick/{image}.png").stat().st_size > 5000
    found = {
        (data["params"]["params.yaml"]["data"]["train"]["learning_rate"])
        for data in sweep.experiments().values()
    }
    assert found == {float(trial["train.learning_rate"]) for trial in trials}

    # The same as `dvc exp run` with these parameters, except for dvclive/system.
    trial = trials[1]["experiment"]
    names = ("train.learning_rate", "train.batch_size")
    changes = [part for name in names for part in ("-S", f"{name}={trials[1][name]}")]
    sweep.run("dvc", "exp", "run", "--name", "twin", *changes)
    commits = sweep.experiment_commits()
    sweep.check_same(commits[trial], commits["twin"])
    sweep.check_other_files(commits[trial])

    # All files of a trial can be restored.
    sweep.run("git", "reset", "--quiet", "--hard")
    sweep.run("dvc", "exp", "apply", trials[0]["experiment"])
    assert "up to date" in sweep.run("dvc", "status").stdout
    assert sweep.experiment() == []


@layouts("folder")
@pytest.mark.exhaustive
def test_trials_are_complete_in_a_sparse_checkout(sweep: Project):
    sweep.run("git", "-C", str(sweep.top), "sparse-checkout", "set", sweep.prefix)
    assert not (sweep.top / "src").exists()
    sweep.run("python", "src/sweep.py", "sweeps/quick.yaml", "--trials", "1")
    (trial,) = sweep.trials()
    revision = sweep.experiment_commits()[trial["experiment"]]
    sweep.check_other_files(revision)
    shown = sweep.run("git", "show", f"{revision}:./dvclive/train/params.yaml").stdout
    assert float(YAML().load(shown)["train"]["learning_rate"]) == float(
        trial["train.learning_rate"]
    )


@pytest.mark.slow
def test_a_stopped_trial_on_features_can_be_repeated(sweep: Project):
    sweep.set_params({"model": {"backbone": "efficientnet_lite0"}, "prepare": {"image_size": 32}})
    sweep.write_sweep(*SEARCHED, **SETTINGS | {"pruner": "hyperband", "trials": 8})
    sweep.run("python", "src/sweep.py", "sweeps/quick.yaml")
    stopped = [trial for trial in sweep.trials() if trial["state"] == "pruned"]
    assert stopped
    # The last one: its process has run other trials before.
    sweep.run("dvc", "exp", "apply", stopped[-1]["experiment"])
    assert "stop_after: 1" in (sweep.root / "params.yaml").read_text()
    assert "stop_after: 1" in (sweep.root / "dvclive/train/params.yaml").read_text()
    before = sweep.files("models", "dvclive")
    sweep.run("dvc", "repro", "--force", "--single-item", "train")
    sweep.run("dvc", "repro", "--force", "--single-item", "evaluate")
    after = sweep.files("models", "dvclive")
    assert before.keys() == after.keys() and not differing(before, after)


def trials_begun(project: Project) -> int:
    """The number of trials in the database of the sweep "quick"."""
    database = project.root / "sweeps/quick/trials.sqlite3"
    with (
        suppress(sqlite3.OperationalError),  # it does not exist yet, or is being written
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection,
    ):
        return connection.execute("SELECT count(*) FROM trials").fetchone()[0]
    return 0


@pytest.mark.slow
def test_a_killed_sweep_is_resumed(sweep: Project):
    command = ("python", "src/sweep.py", "sweeps/quick.yaml", "--trials", "4")
    with Run(sweep, command) as run:
        run.wait_for(lambda: trials_begun(sweep) == 3)
        run.signal(signal.SIGKILL, to_all=True)
    output = sweep.run(*command).stdout
    assert "2 of 4 trials are done" in output or "3 of 4 trials are done" in output
    complete = [trial for trial in sweep.trials() if trial["state"] == "complete"]
    assert len(complete) == 4
    assert sorted(names_of(sweep)) == sorted(trial["experiment"] for trial in complete)
    assert "4 of 4 trials are done" in sweep.run(*command).stdout
    assert "4 of 2 trials are done" in sweep.run(*command[:-1], "2").stdout


# The first lines of a src/prepare.py that runs for an hour, unless the network is `cnn`.
AN_HOUR = """
import time
from pathlib import Path
if "backbone: cnn" not in Path("params.yaml").read_text():
    time.sleep(3600)
"""


def test_a_terminated_sweep_stops_its_processes(sweep: Project):
    sweep.set_params({"prepare": {"image_size": 32}})
    script = sweep.root / "src/prepare.py"
    script.write_text(f"{AN_HOUR}\n{script.read_text()}")
    sweep.run("dvc", "repro", "prepare")
    (sweep.root / "sweeps/grid.yaml").write_text(
        sweep_text(
            "model.backbone: {choices: [efficientnet_lite0]}",
            "train.dropout: {choices: [0.1, 0.2, 0.3]}",
        )
    )
    with Run(sweep, ("python", "src/sweep.py", "sweeps/grid.yaml", "--jobs", "2")) as run:
        run.seconds_until("0 of 3 trials are done")
        begun: list[psutil.Process] = []
        while not any("prepare.py" in command for command in commands(begun)):
            begun = psutil.Process(run.process.pid).children(recursive=True)
        run.signal(signal.SIGTERM, to_all=False)
        run.process.wait()
        assert run.output.endswith("terminated\n") and "Traceback" not in run.output
        psutil.wait_procs(begun)
    assert not (sweep.root / ".dvc/tmp/sweeps/grid").exists()


def commands(processes: list[psutil.Process]) -> list[str]:
    """Command lines of the processes that still run."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(" ".join(process.cmdline()))
    return list(filter(None, found))


@pytest.mark.slow
def test_a_failing_trial_does_not_stop_the_sweep(sweep: Project):
    sweep.set_params({"model": {"backbone": "efficientnet_lite0"}, "prepare": {"image_size": 32}})
    # With this seed, a trial fails between two trials on the same data.
    grid = ["model.weights: {choices: [nowhere.h5, random]}", "train.batch_size: {choices: [4, 8]}"]
    grid += ["prepare.translation: {choices: [0.1]}"]
    grid += ["prepare.views: {choices: [3]}", "train.epochs: {choices: [3]}"]  # only together
    (sweep.root / "sweeps/grid.yaml").write_text(sweep_text(*grid, pruner="median", seed=1))
    done = sweep.run("python", "src/sweep.py", "sweeps/grid.yaml")
    assert "Traceback" not in done.stderr
    assert "nowhere.h5 not found" in done.stderr
    trials = sweep.trials("grid")
    assert {(trial["model.weights"], trial["state"]) for trial in trials} == {
        ("nowhere.h5", "fail"),
        ("random", "complete"),
    }
    complete = [trial["experiment"] for trial in trials if trial["state"] == "complete"]
    assert sorted(names_of(sweep)) == sorted(complete)
    sweep.run("dvc", "exp", "apply", complete[-1])
    assert "up to date" in sweep.run("dvc", "status").stdout
    params = YAML().load(sweep.root / "params.yaml")["prepare"]
    assert (params["translation"], params["views"]) == (0.1, 3)


def test_all_faults_of_a_sweep_are_reported_at_once(sweep: Project):
    path = sweep.root / "sweeps/wrong.yaml"
    searched = ("train.learning_rate: {high: 0.1}", "train.batchsize: {choices: [4, 8]}")
    path.write_text(sweep_text(*searched, metric="f1").replace("seed: 0\n", ""))
    done = sweep.run("python", "src/sweep.py", "sweeps/wrong.yaml", fails=True)
    for fragment in (
        "metric: found 'f1'",
        "seed: missing",
        "parameters.train.learning_rate: found an incomplete range; allowed: choices, or low and",
        "parameters.train.batchsize: unknown; did you mean 'train.batch_size'?",
    ):
        assert f"sweeps/wrong.yaml: {fragment}" in done.stderr
    line = sweep.error("python", "src/sweep.py", "sweeps/none.yaml")
    assert line.startswith("error: sweeps/none.yaml: not found") and names_of(sweep) == []


def test_data_that_cannot_be_prepared_give_a_one_line_error(sweep: Project):
    sweep.set_params({"download": {"source": "nowhere"}})
    done = sweep.run("python", "src/sweep.py", "sweeps/quick.yaml", fails=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: download.source: nowhere" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: `dvc repro prepare` failed")


def queue_status(project: Project) -> str:
    return project.run("dvc", "queue", "status").stdout


@layouts("folder", "top")
@pytest.mark.slow
def test_the_queue_of_dvc_works_too(sweep: Project):
    sweep.run("dvc", "exp", "run", "--queue", "-S", "train.learning_rate=0.1,0.01")
    sweep.run("dvc", "queue", "start", "--jobs", "2")
    try:
        wait_until(lambda: not re.search("Queued|Running", queue_status(sweep)))
        assert queue_status(sweep).count("Success") == 2, queue_status(sweep)
    finally:
        sweep.run("dvc", "queue", "stop", "--kill")
    found = sorted(
        data["params"]["params.yaml"]["data"]["train"]["learning_rate"]
        for data in sweep.experiments().values()
    )
    assert found == [0.01, 0.1]
    sweep.check_other_files(*sweep.experiment_commits().values())
