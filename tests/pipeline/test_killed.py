"""Runs that are killed at a random moment: the same command, given again, ends as if nothing was.

The moments differ from run to run; `pytest -p randomly -p "randomly_seed=..."` repeats them.
"""

import hashlib
import itertools
import json
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

from conftest import Project
from running import Run, copy

# Name -> signal, and whether all processes get it, as from a terminal, or only the first one.
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
ON_FEATURES = {
    "prepare": {"image_size": 32, "views": 2, "horizontal_flip": True, "rotation": 0.1},
    "model": {"backbone": "efficientnet_lite0"},
    "train": {"epochs": 40},
}
FROM_SCRATCH = {"train": {"epochs": 12}}
SWEEP = """
metric: accuracy
sampler: grid
pruner: none
trials: 4
seed: 0
parameters:
  train.learning_rate: {choices: [0.001, 0.002, 0.003, 0.004]}
"""


class Work(NamedTuple):
    """What is killed: a stage, or all of the command."""

    stage: str | None
    changes: dict[str, dict[str, object]]  # of parameters, so that there is something to do
    times: int  # in `make faults`
    command: tuple[str, ...] = ("dvc", "exp", "run")

    @property
    def begin(self) -> str:
        """What is printed when it begins."""
        return f"Running stage '{self.stage}'" if self.stage else ""


WORK = {
    "download": Work("download", {"download": {"source": "../pictures.zip"}}, 8),
    "prepare": Work("prepare", ON_FEATURES, 8),
    "train, from scratch": Work("train", FROM_SCRATCH, 10),
    "train, fine-tuning": Work("train", FINE_TUNED, 8),
    "train, on features": Work("train", ON_FEATURES, 8),
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
                "the same command goes on, and its results are those of an undisturbed run",
            ),
            *([] if (work, number) == ("train, from scratch", 0) else [slow]),
        ],
    )
    for slow in [pytest.mark.slow]
    for work in WORK
    for number in range(WORK[work].times)
]


class Undisturbed(NamedTuple):
    """A project with some work to do, what it gives, and how long it takes."""

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
            archive = project.root.parent / "pictures"
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
                assert run.process.wait() == 0, run.output
            known[name] = Undisturbed(project, results(done, work), seconds)
        return known[name]

    return measure


def results(project: Project, work: Work) -> dict[str, object]:
    """What must be the same with and without a break: all but what the machine was doing."""
    if work.command == ("dvc", "exp", "run"):
        return project.files("data", "models", "dvclive/train", "dvclive/evaluate")
    # These leave experiments and nothing in the workspace; dvc.lock has the hashes of all outputs.
    trees = [
        project.run("git", "ls-tree", "-r", revision).stdout.splitlines()
        for revision in experiments(project)
    ]
    kept = sorted([line for line in tree if "dvclive/system" not in line] for tree in trees)
    return {"experiments": kept}


def experiments(project: Project) -> list[str]:
    """The revisions of the hidden experiments."""
    listed = project.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    references = dict(line.split() for line in listed.stdout.splitlines())
    return [rev for name, rev in references.items() if re.match("refs/exps/[0-9a-f]{2}/", name)]


def check_retrievable(project: Project) -> None:
    """All that the committed run gave is in Git, or whole in DVC's cache."""
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
def test_a_killed_run_goes_on(
    undisturbed: Callable[[str], Undisturbed], tmp_path: Path, name: str, how: str
):
    work = WORK[name]
    before, expected, seconds = undisturbed(name)
    for attempt in itertools.count():
        project = copy(before, tmp_path / str(attempt))
        project.environment["SHELL"] = "/bin/sh"  # stays between DVC and the stage, unlike others
        known = set(experiments(project))
        with Run(project, work.command) as killed:
            killed.seconds_until(work.begin)
            time.sleep(random.uniform(0, seconds))
            # It may have been faster this time.
            _, _, output = killed.output.partition(work.begin or "\n")
            over = work.stage and "Updating lock file" in output
            if killed.process.poll() is None and not over:
                killed.signal(*SIGNALS[how])
                killed.process.wait()
                assert known <= set(experiments(project))
                check_that_it_goes_on(project, work, killed.output, expected)
                break


def check_that_it_goes_on(
    project: Project, work: Work, output: str, expected: dict[str, object]
) -> None:
    check_retrievable(project)
    assert "Traceback" not in output, output

    # At once, while what has lost its parent may still run.
    with Run(project, work.command) as again:
        assert again.process.wait() == 0, f"{output}\n\n{again.output}"
    if work.stage == "train":
        epochs = work.changes["train"]["epochs"]
        finished = len(re.findall("val_loss", output))
        trained = [int(number) for number in re.findall(r"Epoch (\d+)/", again.output)]
        first = trained[0] if trained else epochs + 1
        # The state is kept just before Keras prints that the epoch is finished, and until the model
        # is saved, just before DVC records it.
        allowed = [finished, finished + 1, *([0] if finished == epochs else [])]
        assert first - 1 in allowed, f"{output}\n\n{again.output}"
    found = results(project, work)
    differing = [name for name in found | expected if found.get(name) != expected.get(name)]
    assert not differing, f"{differing}\n\n{output}\n\n{again.output}"


def test_locks_of_a_killed_run_do_not_end_another(trained_project: Project):
    locks = {"read": {}, "write": {"models/model.keras": {"pid": 2**22 + 1, "cmd": "dvc exp run"}}}
    (trained_project.root / ".dvc/tmp/rwlock").write_text(json.dumps(locks))
    for option in ("--temp", "--quiet"):
        trained_project.run("dvc", "exp", "run", option, "-S", "train.learning_rate=0.02")
