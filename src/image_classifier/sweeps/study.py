"""Optuna's record of the trials of a sweep, and the choice of the next one."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from image_classifier.sweeps.sweep_file import Sweep, Value


def open_study(
    storage: Path, identity: str, sweep: Sweep, epochs: int, first: dict[str, Value] | None = None
) -> optuna.Study:
    """Start a study, or resume the one with the same identity.

    Args:
        storage: an SQLite file that can hold several studies.
        identity: hash of everything that the trials depend on besides their parameters.
        epochs: length of a trial that is not stopped.
        first: the parameters of the first trial, in other sweeps than a grid (None: any).
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # src/sweep.py prints failed trials itself
    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=identity,
        direction="maximize" if sweep.metric == "accuracy" else "minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    started = study.get_trials()
    study.sampler = build_sampler(sweep, len(started))
    if first and not started and sweep.sampler != "grid":
        study.enqueue_trial(first)
    # Stops a trial if other trials had better metrics after the same number of epochs.
    study.pruner = {
        "none": optuna.pruners.NopPruner(),
        "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs),
    }[sweep.pruner]
    return study


def new_trials(study: optuna.Study, sweep: Sweep) -> Iterator[Trial]:
    """Yield one trial after another, first repeats of the interrupted trials.

    A grid has a last trial; other sweeps have no end. Not thread-safe: after an interruption, two
    threads could get the same trial.
    """
    for _ in study.get_trials(states=[TrialState.WAITING]):
        yield study.ask()
    trials = study.get_trials()
    interrupted = interrupted_trials(study)
    if sweep.sampler == "grid":
        # Optuna's own grid sampler cannot repeat an interrupted trial.
        lost = {trial.number for trial in interrupted}
        tried = {trial.user_attrs["combination"] for trial in trials if trial.number not in lost}
        for number, combination in enumerate(sweep.grid()):
            if number not in tried:
                study.enqueue_trial(combination, user_attrs={"combination": number})
                yield study.ask()
    else:
        repeated = {trial.user_attrs.get("repeats") for trial in trials}
        for trial in interrupted:
            # Nothing is lost with a trial whose parameters were not all chosen yet.
            if trial.number not in repeated and trial.params.keys() == sweep.parameters.keys():
                study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number})
                yield study.ask()
        while True:
            yield study.ask()


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are complete, pruned, or failed with an error; interrupted ones are not."""
    ended = [trial for trial in study.get_trials() if trial.state.is_finished()]
    return [
        trial for trial in ended if trial.state != TrialState.FAIL or "error" in trial.user_attrs
    ]


def interrupted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were running when the sweep stopped."""
    failed = study.get_trials(states=[TrialState.FAIL])
    return [trial for trial in failed if "error" not in trial.user_attrs]


def write_trials(study: optuna.Study, path: Path) -> None:
    """Write the finished trials as a CSV table with a column for each parameter."""
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
    """The sampler that chooses the next trial; seeded so that a resumed sweep does not repeat."""
    seed = (sweep.seed + trial_count) % 2**32
    if sweep.sampler == "tpe":
        return RoundedTPESampler(seed=seed, constant_liar=True)
    return RoundedRandomSampler(seed=seed)  # unused in a grid: `new_trials` sets all values


class _Rounded:
    """Rounds the numbers of a sampler, so that the study holds the values used in training."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values = super().sample_relative(study, trial, search_space)
        return {name: round_sampled(value, search_space[name]) for name, value in values.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        value = super().sample_independent(study, trial, name, distribution)
        return round_sampled(value, distribution)


class RoundedTPESampler(_Rounded, optuna.samplers.TPESampler):
    """As `optuna.samplers.TPESampler`, with values from `round_sampled`."""


class RoundedRandomSampler(_Rounded, optuna.samplers.RandomSampler):
    """As `optuna.samplers.RandomSampler`, with values from `round_sampled`."""


def round_sampled(value: Any, distribution: BaseDistribution) -> Any:
    """Round a number of a range without step to 4 significant digits, within the range.

    Longer numbers do not fit into a cell of the experiments table in VS Code. Other values only
    lose binary noise: 0.3 rather than 0.30000000000000004.
    """
    if not isinstance(distribution, FloatDistribution):
        return value
    rounded = float(f"{value:.4g}") if distribution.step is None else round(value, 12)
    return min(max(rounded, distribution.low), distribution.high)
