"""The memory of a sweep: which trials there were, and which come next."""

import csv
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from image_classifier.sweeps.sweep_file import Sweep


def open_study(storage: Path, identity: str, sweep: Sweep, epochs: int) -> optuna.Study:
    """Begin a study, or go on with the one of the same identity.

    Args:
        storage: an SQLite file for any number of studies.
        identity: what the trials depend on besides their parameters, as a hash.
        epochs: of a trial that is not stopped.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed trial has its own line
    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=identity,
        direction="maximize" if sweep.metric == "accuracy" else "minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    study.sampler = build_sampler(sweep, len(study.get_trials()))
    # What stops a trial, judging by how others stood after as many epochs.
    study.pruner = {
        "none": optuna.pruners.NopPruner(),
        "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs),
    }[sweep.pruner]
    return study


def new_trials(study: optuna.Study, sweep: Sweep) -> Iterator[Trial]:
    """Ask for one trial after another: first those that were interrupted, once more.

    The trials of a grid come to an end, those of other sweeps do not. To be used by one thread:
    two that ask at the same time may be given the same trial, once one has been interrupted.
    """
    for _ in study.get_trials(states=[TrialState.WAITING]):
        yield study.ask()
    trials = study.get_trials()
    interrupted = interrupted_trials(study)
    if sweep.sampler == "grid":
        # Not by Optuna's own sampler for grids: it cannot repeat a trial that was interrupted.
        lost = {trial.number for trial in interrupted}
        tried = {trial.user_attrs["combination"] for trial in trials if trial.number not in lost}
        for number, combination in enumerate(sweep.grid()):
            if number not in tried:
                study.enqueue_trial(combination, user_attrs={"combination": number})
                yield study.ask()
    else:
        repeated = {trial.user_attrs.get("repeats") for trial in trials}
        for trial in interrupted:
            # One that was interrupted before all its parameters were chosen is no loss.
            if trial.number not in repeated and trial.params.keys() == sweep.parameters.keys():
                study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number})
                yield study.ask()
        while True:
            yield study.ask()


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to their own end: complete, pruned, or failed with an error."""
    ended = [trial for trial in study.get_trials() if trial.state.is_finished()]
    return [
        trial for trial in ended if trial.state != TrialState.FAIL or "error" in trial.user_attrs
    ]


def interrupted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were running when the sweep was ended."""
    failed = study.get_trials(states=[TrialState.FAIL])
    return [trial for trial in failed if "error" not in trial.user_attrs]


def write_trials(study: optuna.Study, path: Path) -> None:
    """Write a table of the trials that are finished as CSV, a column for each parameter."""
    trials = finished_trials(study)
    names = sorted({name for trial in trials for name in trial.params})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "experiment", "state", "value", "seconds", *names])
        for trial in trials:
            row = [trial.number, trial.user_attrs.get("experiment"), trial.state.name.lower()]
            row += [trial.value, f"{trial.duration.total_seconds():.1f}"]
            writer.writerow(row + [trial.params.get(name) for name in names])


def build_sampler(sweep: Sweep, trial_count: int) -> optuna.samplers.BaseSampler:
    """What chooses the next trial; after a restart it does not draw the same ones again."""
    seed = (sweep.seed + trial_count) % 2**32
    if sweep.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)  # `new_trials` goes through a grid
