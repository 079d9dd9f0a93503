"""Run the trials of a sweep, and save each as a hidden Git experiment of the current commit."""

import hashlib
import itertools
import json
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
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState
from ruamel.yaml import YAML

from image_classifier.common.errors import InputError
from image_classifier.outputs.git import git, name_the_committer
from image_classifier.sweeps.study import finished_trials, interrupted_trials, new_trials
from image_classifier.sweeps.sweep_file import Sweep
from image_classifier.sweeps.trials import TrialError, TrialPool

COPIES = Path(".dvc/tmp/sweeps")


class Snapshot(NamedTuple):
    """What the trials of a sweep are run on."""

    parent: str  # the current commit
    source: str  # a commit of the files as they are, also those not committed
    cache: str  # the folder of DVC's cache


def take_snapshot() -> Snapshot:
    """Keep the files as they are now, with what is not committed, as `dvc exp run` does."""
    name_the_committer()
    parent = git("rev-parse", "HEAD")
    git("status")  # in a copied repository, `git stash create` fails until Git has looked at it
    source = git("stash", "create") or parent
    with Repo() as repo:
        return Snapshot(parent, source, repo.cache.local_cache_dir)


def locked(file: Path) -> AbstractContextManager:
    """Run the sweep of a file alone.

    Raises:
        InputError: if another process runs it.
    """
    COPIES.mkdir(parents=True, exist_ok=True)
    try:
        # Waiting a little: one that has been told to end may not have done so yet.
        return FileLock(COPIES / f"{file.stem}.lock").acquire(timeout=3)
    except Timeout:
        raise InputError(f"{file}: this sweep is running already") from None


def identify(snapshot: Snapshot, lock_file: Path, sweep: Sweep) -> str:
    """A hash of all that a trial's result depends on besides its own parameters.

    Trials of other sources, parameters or data belong to another sweep, under another name. The
    data are those that `lock_file`, a dvc.lock, names.
    """
    paths = ("src", "dvc.yaml", "params.yaml")
    sources = [git("rev-parse", f"{snapshot.source}:{path}") for path in paths]
    data = YAML(typ="safe").load(lock_file)["stages"]["prepare"]["outs"]
    values = [snapshot.parent, sources, data, sweep.model_dump(exclude={"trials"})]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SweepRunner:
    """Runs the trials of a study on the processes of a pool."""

    study: optuna.Study
    sweep: Sweep
    pool: TrialPool  # or a `ClusterPool`
    parent: str  # the commit that the experiments belong to
    prefix: str  # of their names; the trial's number follows

    def run(
        self, executor: Executor, jobs: int, trial_count: int, deadline: float
    ) -> Iterator[FrozenTrial]:
        """Run trials until there are `trial_count` in all, and yield each when it is finished.

        Args:
            executor: with a thread for each job.
            jobs: trials at a time.
            trial_count: of which those that were finished before count.
            deadline: in seconds of `time.monotonic`, after which no trial is begun.
        """
        for trial in interrupted_trials(self.study):  # perhaps saved before their results were
            git("update-ref", "-d", str(self._reference(trial)))
        missing = max(0, trial_count - len(finished_trials(self.study)))
        trials = itertools.islice(new_trials(self.study, self.sweep), missing)
        running: dict[Future, Trial] = {}
        while True:
            # Taken only when it can begin, a trial is chosen by the results of all before it.
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

        def go_on(epoch: int, metrics: dict[str, float]) -> bool:
            nonlocal judged, pruned
            if epoch > judged:  # a trial that has lost its machine does the same again
                trial.report(metrics[self.sweep.metric], epoch)
                judged, pruned = epoch, trial.should_prune()
            return epoch < judged or not pruned

        answer = self.pool.run(values, go_on)
        reference = self._reference(trial)
        message = f"dvc: experiment {reference.name}"
        commit = git("commit-tree", answer["tree"], "-p", self.parent, "-m", message)
        trial.set_user_attr("experiment", reference.name)
        git("update-ref", str(reference), commit)
        if pruned:
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, answer["metrics"][self.sweep.metric]

    def _reference(self, trial: Trial | FrozenTrial) -> ExpRefInfo:
        return ExpRefInfo(self.parent, f"{self.prefix}-{trial.number:03}")


def describe(trial: FrozenTrial, metric: str) -> str:
    """A line about a finished trial."""
    values = " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial.params.items()
    )
    result = f"{metric} {trial.value:.4f}" if trial.value is not None else "failed"
    if trial.state == TrialState.PRUNED:
        result += f", pruned after epoch {trial.last_step}"
    name = trial.user_attrs.get("experiment", f"trial {trial.number}")
    seconds = f"{trial.duration.total_seconds():.1f} s"
    error = trial.user_attrs.get("error")
    return "  ".join(filter(None, [name, result, seconds, values, error]))
