"""Runs that are killed at a random moment: the same command resumes and gives the same results.

The moments differ from run to run; `pytest -p randomly -p "randomly_seed=..."` repeats them.
"""

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

from helpers.project import ON_FEATURES, RECIPE, Project, differing, layouts, sweep_text
from helpers.running import Run, copy, wait_until

# Name -> signal, and whether all processes get it (as from a terminal) or only the first one.
SIGNALS = {
    "Ctrl-C": (signal.SIGINT, True),
    "SIGTERM": (signal.SIGTERM, False),
    "SIGTERM to all": (signal.SIGTERM, True),
    "SIGKILL": (signal.SIGKILL, False),
    "SIGKILL to all": (signal.SIGKILL, True),
}
FINE_TUNED = {
    "prepare": {"image_size": 32},
    "model": {"backbone": "efficientnet_lite0", "fine_tune_layers": 2},
    "train": {"epochs": 6},
}
LONG_ON_FEATURES = {**ON_FEATURES, "train": {"epochs": 40}}
FROM_SCRATCH = {"train": {"epochs": 12}}
# On these easy images it stops early.
WITH_RECIPE = {"train": {"epochs": 12, **RECIPE}}
VALIDATION_LOSSES = "dvclive/train/plots/metrics/eval/loss.tsv"
SWEEP = sweep_text("train.learning_rate: {choices: [0.001, 0.002, 0.003, 0.004]}", trials=4)


class Work(NamedTuple):
    """A command to kill, and the changes before it."""

    stage: str | None  # the stage to kill; None: kill the command at any time
    changes: dict[str, dict[str, object]]  # changes of parameters that make DVC run the stage
    times: int  # number of kills in `make faults`
    command: tuple[str, ...] = ("dvc", "exp", "run")

    @property
    def begin(self) -> str:
        """The output that shows that the work has begun."""
        return f"Running stage '{self.stage}'" if self.stage else ""


WORK = {
    "download": Work("download", {"download": {"source": "../images.zip"}}, 8),
    "prepare": Work("prepare", LONG_ON_FEATURES, 8),
    "train, from scratch": Work("train", WITH_RECIPE, 10),
    "train, fine-tuning": Work("train", FINE_TUNED, 8),
    "train, on features": Work("train", LONG_ON_FEATURES, 8),
    "train, with --temp": Work("train", FROM_SCRATCH, 5, ("dvc", "exp", "run", "--temp")),
    "evaluate": Work("evaluate", {"train": {"dropout": 0.3}}, 8),
    "sweep": Work(None, {}, 8, ("python", "src/sweep.py", "sweeps/four.yaml", "--jobs", "2")),
}
CASES = [
    pytest.param(
        work,
        list(SIGNALS)[number % len(SIGNALS)],
        id=f"{work}-{number}",
        marks=[
            pytest.mark.fault(
                "Killed",
                f"SIGKILL, SIGTERM or Ctrl-C at a random moment of {work}",
                "the same command resumes, with the results of an uninterrupted run",
            ),
            *([] if (work, number) == ("train, from scratch", 0) else [pytest.mark.exhaustive]),
        ],
    )
    for work in WORK
    for number in range(WORK[work].times)
]


class Undisturbed(NamedTuple):
    """A project before the work, and the results and duration of an undisturbed run."""

    project: Project
    results: dict
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(
    finished: Project, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    known: dict[str, Undisturbed] = {}

    def measure(name: str) -> Undisturbed:
        if name not in known:
            work, folder = WORK[name], tmp_path_factory.mktemp("undisturbed")
            project = copy(finished, folder / "before")
            archive = project.root.parent / "images"
            shutil.make_archive(str(archive), "zip", project.root / "data/raw")
            project.set_params(work.changes)
            (project.root / "sweeps/four.yaml").write_text(SWEEP)
            if work.stage in ("train", "evaluate"):
                project.run("dvc", "repro", "prepare")
            project.commit()
            done = copy(project, folder / "after")
            with Run(done, work.command) as run:
                run.seconds_until(work.begin)
                seconds = run.seconds_until("Updating lock file" if work.stage else None)
                run.finish()
            known[name] = Undisturbed(project, results(done, work), seconds)
        return known[name]

    return measure


def results(project: Project, work: Work) -> dict[str, object]:
    """The files that a kill must not change: everything but measurements of the machine."""
    if work.command == ("dvc", "exp", "run"):
        return project.files("data", "models", "dvclive/train", "dvclive/evaluate")
    # Other commands only save experiments; their dvc.lock has the hashes of all outputs.
    trees = [
        project.run("git", "ls-tree", "-r", revision).stdout.splitlines()
        for revision in project.experiment_commits().values()
    ]
    kept = sorted([line for line in tree if "dvclive/system" not in line] for tree in trees)
    return {"experiments": kept}


def check_retrievable(project: Project) -> None:
    """Check that all outputs of the committed run are in Git or undamaged in DVC's cache."""
    lock = YAML(typ="safe").load(project.run("git", "show", "HEAD:dvc.lock").stdout)
    tracked = project.run("git", "ls-files").stdout
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    hashes = [out["md5"] for out in outs if out["path"] not in tracked]
    while hashes:
        md5 = hashes.pop()
        content = (project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5.removesuffix(".dir")
        if md5.endswith(".dir"):
            hashes += [entry["md5"] for entry in json.loads(content)]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_killed_run_resumes(
    undisturbed: Callable[[str], Undisturbed], tmp_path: Path, name: str, how: str
):
    work = WORK[name]
    before, expected, seconds = undisturbed(name)
    for attempt in itertools.count():
        project = copy(before, tmp_path / str(attempt))
        # Unlike other shells, /bin/sh remains as a process between DVC and the stage.
        project.environment["SHELL"] = "/bin/sh"
        known = set(project.experiment_commits().values())
        with Run(project, work.command) as killed:
            killed.seconds_until(work.begin)
            time.sleep(random.uniform(0, seconds))
            # The run may be over already; then try again.
            _, _, output = killed.output.partition(work.begin or "\n")
            over = work.stage and "Updating lock file" in output
            if killed.process.poll() is None and not over:
                killed.signal(*SIGNALS[how])
                killed.process.wait()
                assert known <= set(project.experiment_commits().values())
                check_that_it_resumes(project, work, killed, expected)
                break


def check_that_it_resumes(
    project: Project, work: Work, killed: Run, expected: dict[str, object]
) -> None:
    check_retrievable(project)
    # Immediately, while orphaned processes may still run and finish an epoch or more.
    with Run(project, work.command) as again:
        code, output = again.process.wait(), killed.output
        assert code == 0 and "Traceback" not in output, f"{output}\n\n{again.output}"
    if work.stage == "train":
        losses = expected.get(VALIDATION_LOSSES)  # one line per epoch, below a header
        epochs = len(losses.splitlines()) - 1 if losses else work.changes["train"]["epochs"]
        finished, trained = len(printed_epochs(output)), printed_epochs(again.output)
        first = trained[0] if trained else epochs + 1
        # The checkpoint is saved just before the line of the epoch is printed, and deleted when the
        # model is saved, just before DVC records it.
        allowed = [finished, finished + 1, *([0] if finished == epochs else [])]
        assert first - 1 in allowed, f"{output}\n\n{again.output}"
    changed = differing(results(project, work), expected)
    assert not changed, f"{changed}\n\n{output}\n\n{again.output}"


@layouts("top", "folder")
@pytest.mark.parametrize("to_all", [False, True])
@pytest.mark.slow
def test_a_stopped_run_leaves_the_branch_and_the_test_results(
    trained_project: Project, to_all: bool
):
    """The extension's Stop button sends SIGTERM, on which DVC leaves HEAD detached."""
    make_git_slow(trained_project)
    step_completed = trained_project.root / ".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED"
    tested = trained_project.files("dvclive/evaluate")
    with Run(trained_project, ("dvc", "exp", "run", "-S", "train.epochs=100")) as run:
        run.wait_for(step_completed.exists)
        assert trained_project.files("dvclive/evaluate") != tested
        run.signal(signal.SIGTERM, to_all)
        run.process.wait()
        wait_until(lambda: "terminated" in run.output)
    assert trained_project.run("git", "symbolic-ref", "HEAD").stdout.strip() == "refs/heads/main"
    assert trained_project.files("dvclive/evaluate") == tested


def make_git_slow(project: Project) -> None:
    """Let Git take longer to return to a branch, as on a busy machine."""
    git = project.top.parent / "slow/git"
    git.parent.mkdir()
    git.write_text(
        '#!/bin/sh\nif [ "$1" = symbolic-ref ]; then sleep 2; fi\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    git.chmod(0o755)
    path = project.environment["PATH"]
    project.environment["PATH"] = f"{git.parent}{os.pathsep}{path}"


def printed_epochs(output: str) -> list[int]:
    """The numbers of the epochs that have a line in the output of a training."""
    return [int(number) for number in re.findall(r"^ *(\d+)/\d+  ", output, re.MULTILINE)]


def test_a_training_without_remaining_epochs_resumes(trained_project: Project):
    expected = trained_project.files("dvclive/train")
    model = trained_project.root / "models/model.keras"
    model.unlink()
    model.mkdir()  # so that only saving fails
    trained_project.run("python", "src/train.py", fails=True)
    model.rmdir()
    done = trained_project.run("python", "src/train.py")
    assert "resuming the interrupted training after epoch 2 of 2" in done.stdout
    assert not differing(trained_project.files("dvclive/train"), expected)


def test_a_training_that_stopped_early_does_not_continue(trained_project: Project):
    trained_project.set_params({"train": {"epochs": 12, "early_stopping": 1}})
    trained_project.environment["DVC_ROOT"] = str(trained_project.root)  # save no experiment
    printed = trained_project.run("python", "src/train.py").stdout
    epochs = printed_epochs(printed)
    assert len(epochs) < 12 and "stopped early" in printed
    expected = trained_project.files("dvclive/train", "models")
    model = trained_project.root / "models/model.keras"
    model.unlink()
    model.mkdir()  # so that only saving fails
    trained_project.run("python", "src/train.py", fails=True)
    model.rmdir()
    done = trained_project.run("python", "src/train.py").stdout
    assert f"resuming the interrupted training after epoch {len(epochs)} of 12" in done
    assert not printed_epochs(done)
    assert not differing(trained_project.files("dvclive/train", "models"), expected)


@layouts("folder")
@pytest.mark.exhaustive
def test_a_training_in_a_temporary_copy_resumes(trained_project: Project):
    command = ("dvc", "exp", "run", "--temp", "-S", "train.epochs=12")
    with Run(trained_project, command) as run:
        run.seconds_until(" 3/12 ")
        run.signal(signal.SIGKILL, to_all=True)
        run.process.wait()
    output = trained_project.run(*command).stdout
    assert "resuming the interrupted training after epoch" in output
    assert printed_epochs(output)[0] > 3


@pytest.mark.slow
def test_a_training_does_not_resume_with_other_code(trained_project: Project):
    trained_project.set_params(FROM_SCRATCH)
    with Run(trained_project, ("python", "src/train.py")) as run:
        run.seconds_until(" 3/12 ")
        run.signal(signal.SIGKILL, to_all=True)
        run.process.wait()
    module = trained_project.root / "src/image_classifier/training/classifier.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    output = trained_project.run("python", "src/train.py").stdout
    assert printed_epochs(output)[0] == 1


@pytest.mark.slow
def test_locks_of_a_killed_run_do_not_block_the_next(trained_project: Project):
    locks = {"read": {}, "write": {"models/model.keras": {"pid": 2**22 + 1, "cmd": "dvc exp run"}}}
    (trained_project.root / ".dvc/tmp/rwlock").write_text(json.dumps(locks))
    for option in ("--temp", "--quiet"):
        trained_project.run("dvc", "exp", "run", option, "-S", "train.learning_rate=0.02")
