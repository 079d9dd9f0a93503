"""Run the trials of a sweep and save each as a hidden Git experiment of the current commit."""

import hashlib
import itertools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import optuna
from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo
from dvclive.vscode import mark_dvclive_step_completed
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState
from ruamel.yaml import YAML

from image_classifier.common.errors import InputError
from image_classifier.outputs.git import (
    git,
    name_the_committer,
    project_prefix,
    replace_project,
)
from image_classifier.sweeps.study import finished_trials, interrupted_trials, new_trials
from image_classifier.sweeps.sweep_file import Sweep
from image_classifier.sweeps.trials import TrialError, TrialPool

COPIES = Path(".dvc/tmp/sweeps")


class Snapshot(NamedTuple):
    """The versions of code, parameters and data that the trials of a sweep use."""

    parent: str  # the current commit
    source: str  # a commit of the files as they are now, with uncommitted changes
    cache: str  # folder of DVC's cache


def take_snapshot() -> Snapshot:
    """Save the files as they are now, with uncommitted changes, as `dvc exp run` does."""
    name_the_committer()
    parent = git("rev-parse", "HEAD")
    git("status")  # in a copied repository, `git stash create` fails until Git has looked at it
    source = git("stash", "create") or parent
    with Repo() as repo:
        return Snapshot(parent, source, repo.cache.local_cache_dir)


def locked(file: Path) -> AbstractContextManager:
    """Keep other processes from running the same sweep file.

    Raises:
        InputError: if another process is running it.
    """
    COPIES.mkdir(parents=True, exist_ok=True)
    try:
        # Wait a little: an interrupted process may not have exited yet.
        return FileLock(COPIES / f"{file.stem}.lock").acquire(timeout=3)
    except Timeout:
        raise InputError(f"{file}: this sweep is already running") from None


def identify(snapshot: Snapshot, lock_file: Path, sweep: Sweep) -> str:
    """A hash of everything that a trial's result depends on besides its own parameters.

    If code, data or other parameters change, the hash changes and a new sweep starts. The data
    are those recorded in `lock_file`, a dvc.lock. Two projects in the same Git repository have
    different hashes, because Git keeps the experiments of both in one place.
    """
    paths = ("src", "dvc.yaml", "params.yaml")
    sources = [git("rev-parse", f"{snapshot.source}:./{path}") for path in paths]
    data = YAML(typ="safe").load(lock_file)["stages"]["prepare"]["outs"]
    settings = sweep.model_dump(exclude={"trials"})
    return _hash(snapshot.parent, project_prefix(), sources, data, settings)[:12]


def short_name(sweep: str, identity: str) -> str:
    """A short name for the trials of a sweep, such as "lr-29b9a" for "learning_rate".

    It has the initials of the words, or three letters of a single word, and a hash that keeps
    sweeps apart. With the number of a trial (below 1,000) it has at most 13 characters: DVC's
    extension for VS Code shows no more.

    Args:
        sweep: name of the sweep file, without .yaml.
        identity: from `identify`.
    """
    words = re.findall("[a-z0-9]+", sweep.lower())
    label = words[0] if len(words) == 1 else "".join(word[0] for word in words)
    return "-".join(filter(None, [label[:3], _hash(sweep, identity)[:5]]))


def _hash(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SweepRunner:
    """Runs the trials of a study on the processes of a pool."""

    study: optuna.Study
    sweep: Sweep
    pool: TrialPool  # or a `ClusterPool`
    snapshot: Snapshot
    name: str  # `short_name` of the sweep

    def run(
        self, executor: Executor, jobs: int, trial_count: int, deadline: float
    ) -> Iterator[FrozenTrial]:
        """Run trials until there are `trial_count` in total; yields each trial when it finishes.

        Args:
            executor: has a thread for each job.
            jobs: number of trials to run in parallel.
            trial_count: includes the trials that finished earlier.
            deadline: time after which no trial starts, in seconds of `time.monotonic`.
        """
        for trial in interrupted_trials(self.study):  # may have saved an experiment, but no result
            git("update-ref", "-d", str(self._reference(trial)))
        missing = max(0, trial_count - len(finished_trials(self.study)))
        trials = itertools.islice(new_trials(self.study, self.sweep), missing)
        running: dict[Future, Trial] = {}
        while True:
            # Choose each trial as late as possible: the choice uses the results so far.
            while (
                len(running) < jobs
                and time.monotonic() < deadline
                and (trial := next(trials, None))
            ):
                running[executor.submit(self._run_trial, trial)] = trial
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                try:
                    state, value = future.result()
                except TrialError as error:
                    trial.set_user_attr("error", str(error))
                    state, value = TrialState.FAIL, None
                yield self.study.tell(trial, value, state)

    def _run_trial(self, trial: Trial) -> tuple[TrialState, float | None]:
        parameters = self.sweep.parameters
        values = {name: parameter.suggest(trial, name) for name, parameter in parameters.items()}
        judged, pruned = 0, False

        def is_wanted(epoch: int, metrics: dict[str, float]) -> bool:
            nonlocal judged, pruned
            if epoch > judged:  # a trial that lost its machine repeats its epochs
                trial.report(metrics[self.sweep.metric], epoch)
                judged, pruned = epoch, trial.should_prune()
            return epoch < judged or not pruned

        answer = self.pool.run(values, is_wanted)
        reference = self._reference(trial)
        message = f"dvc: experiment {reference.name}"
        tree = replace_project(self.snapshot.source, answer["tree"])
        commit = git("commit-tree", tree, "-p", self.snapshot.parent, "-m", message)
        trial.set_user_attr("experiment", reference.name)
        git("update-ref", str(reference), commit)
        # DVC's extension for VS Code may miss the new reference, but reads all experiments again
        # when this signal file changes. DVCLive writes it after each epoch of a stage.
        mark_dvclive_step_completed(trial.number)
        if pruned:
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, answer["metrics"][self.sweep.metric]

    def _reference(self, trial: Trial | FrozenTrial) -> ExpRefInfo:
        # The number comes first: where only the start of a name is visible, trials still differ.
        return ExpRefInfo(self.snapshot.parent, f"{trial.number:03}-{self.name}")
