"""Hyperparameter searches: what a file such as sweeps/learning_rate.yaml may say."""

import csv
import itertools
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import matplotlib
import optuna
from optuna.visualization import matplotlib as plots
from pydantic import AfterValidator, Field, ValidationError, model_validator

from image_classifier.checked_yaml import Section, explain, nearest, read_yaml, refusal, shown
from image_classifier.params import ModelParams, Params, PositiveInt, Seed, TrainParams, find_errors

Number = Annotated[int | float, Field(ge=-(2**32), le=2**32)]
OptionalNumber = Annotated[Number | None, Field(description=f"a number, {-(2**32):,} to {2**32:,}")]
Value = bool | int | float | str
Choices = Annotated[
    Annotated[list[Value], Field(min_length=1, max_length=1_000)] | None,
    Field(description="a list of 1 to 1,000 numbers, words, true and false"),
]
FAILED = optuna.trial.TrialState.FAIL
SEARCHED = [
    *(f"train.{key}" for key in TrainParams.model_fields),
    *(f"model.{key}" for key in ModelParams.model_fields),
]
MOST_VALUES = 100_000  # of a grid, which is kept in memory


class SearchedParameter(Section):
    """The values that one parameter may take: `choices`, or a range with both ends included."""

    choices: Choices = None
    low: OptionalNumber = None
    high: OptionalNumber = None
    log: bool = False
    step: OptionalNumber = None

    @model_validator(mode="after")
    def _complete(self) -> "SearchedParameter":
        bounds = (self.low, self.high)
        if self.choices is not None:
            if bounds != (None, None) or self.log or self.step is not None:
                raise ValueError("found choices and a range; allowed: one of them")
        elif None in bounds:
            raise ValueError("found no whole range; allowed: choices, or low and high")
        elif self.low > self.high:
            raise ValueError(f"found low {self.low}; allowed: at most high, {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"found low {self.low}; allowed with log: above 0")
        elif self.log and self.step is not None:
            raise ValueError(f"found log and step {self.step}; allowed: one of them")
        elif self.step is not None and self.step <= 0:
            raise ValueError(f"found step {self.step}; allowed: above 0")
        elif self.step is not None and (self.high - self.low) / self.step > MOST_VALUES:
            raise ValueError(
                f"found step {self.step}; allowed: {MOST_VALUES:,} steps from low to high at most"
            )
        return self

    @property
    def whole(self) -> bool:
        """Whether all values of the range are whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    def extremes(self) -> list[Value]:
        """All `choices`, or both ends of the range, as `suggest` gives them."""
        if self.choices is not None:
            return self.choices
        ends = [self.low, self.high]
        return ends if self.whole else [float(end) for end in ends]

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Let a trial choose; whole numbers if low, high and step are whole."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        if self.whole:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return round(value, 12) if self.step else value  # 0.3 rather than 0.30000000000000004

    def grid(self) -> list[Value] | None:
        """All values, or None if there is no end to them."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + number * self.step for number in range(count)]


def _known(name: str) -> str:
    if name not in SEARCHED:
        near = nearest(name, SEARCHED)
        allowed = f"did you mean {near!r}?" if near else f"allowed: {', '.join(SEARCHED)}"
        raise ValueError(f"unknown; {allowed}")
    return name


class Sweep(Section):
    """The whole of the file."""

    metric: Literal["accuracy", "loss"]
    sampler: Literal["tpe", "random", "grid"]
    pruner: Literal["none", "median", "hyperband"]
    trials: PositiveInt
    seed: Seed
    parameters: Annotated[
        dict[Annotated[str, AfterValidator(_known)], SearchedParameter], Field(min_length=1)
    ]

    @property
    def combinations(self) -> float:
        """How many trials a grid has; any other search has no end."""
        if self.sampler != "grid":
            return math.inf
        return math.prod(len(parameter.grid()) for parameter in self.parameters.values())

    def grid(self) -> list[dict[str, Value]]:
        """All combinations of a grid, in an order that the seed decides."""
        values = itertools.product(*(parameter.grid() for parameter in self.parameters.values()))
        combinations = [dict(zip(self.parameters, chosen, strict=True)) for chosen in values]
        random.Random(self.seed).shuffle(combinations)
        return combinations

    def build_sampler(self, finished_trials: int) -> optuna.samplers.BaseSampler:
        """What chooses the next trial; after a restart it does not draw the same ones again."""
        seed = (self.seed + finished_trials) % 2**32
        if self.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)  # `new_trials` goes through a grid

    def build_pruner(self, epochs: int) -> optuna.pruners.BasePruner:
        """What stops a trial, judging by how others stood after as many epochs."""
        if self.pruner == "none":
            return optuna.pruners.NopPruner()
        if self.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)


def read_sweep(path: Path, params: Params) -> Sweep:
    """Read and check a search.

    Args:
        path: of the file.
        params: what the trials have in common.

    Raises:
        InputError: with a line for each thing wrong in it, and for each value that could be tried
            and is not allowed for its parameter, or never together with those of `params`.
    """
    values = read_yaml(path)
    sweep, reasons = None, []
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        reasons = explain(error, Sweep)
    values = values if isinstance(values, dict) else {}
    searched = values.get("parameters")
    searched = searched if isinstance(searched, dict) else {}
    for name in filter(SEARCHED.__contains__, searched):
        try:
            parameter = SearchedParameter.model_validate(searched[name])
        except ValidationError:  # it is among the reasons
            continue
        if values.get("sampler") == "grid" and parameter.grid() is None:
            reasons.append(
                f"parameters.{name}: found no step; allowed in a grid: choices, or a step"
            )
        others = [other for other in SEARCHED if other in searched and other != name]
        reasons += _refused_values(name, parameter, params, others)
    if not reasons and sweep.sampler == "grid" and sweep.combinations > MOST_VALUES:
        reasons.append(
            f"parameters: found a grid of {sweep.combinations:,} trials; allowed: {MOST_VALUES:,}"
        )
    if reasons:
        raise refusal(path, list(dict.fromkeys(reasons)))
    return sweep


def _refused_values(
    name: str, parameter: SearchedParameter, params: Params, others: Sequence[str]
) -> list[str]:
    """A line for each value that its parameter does not take; `others` are searched as well."""
    section, key = name.split(".")
    varying = [tuple(other.split(".")) for other in others]
    lines = []
    for value in parameter.extremes():
        values = params.model_dump()
        values[section][key] = value
        for reason in find_errors(values, varying):
            own = reason.startswith(f"{name}: ")
            lines.append(
                f"parameters.{reason if own else f'{name}: found {shown(value)}; {reason}'}"
            )
    return lines


def open_study(storage: Path, identity: str, sweep: Sweep, epochs: int) -> optuna.Study:
    """Begin a study, or go on with the one of the same identity.

    Args:
        storage: an SQLite file for any number of studies.
        identity: what the trials depend on besides their parameters, as a hash.
        sweep: the search.
        epochs: of a trial that is not stopped.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed trial has its own line
    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=identity,
        direction="maximize" if sweep.metric == "accuracy" else "minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=FAILED)
    study.sampler = sweep.build_sampler(len(study.get_trials()))
    study.pruner = sweep.build_pruner(epochs)
    return study


def new_trials(study: optuna.Study, sweep: Sweep) -> Iterator[optuna.Trial]:
    """Ask for one trial after another: first those that were interrupted, once more.

    The trials of a grid come to an end, those of other searches do not. To be used by one thread:
    two that ask at the same time may be given the same trial, once one has been interrupted.
    """
    for _ in study.get_trials(states=[optuna.trial.TrialState.WAITING]):
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


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that came to their own end: complete, pruned, or failed with an error.

    Those that were interrupted are none of them.
    """
    return [
        trial
        for trial in study.get_trials()
        if trial.state.is_finished() and (trial.state != FAILED or "error" in trial.user_attrs)
    ]


def interrupted_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that were running when the search was ended."""
    failed = study.get_trials(states=[FAILED])
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


def draw_search(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Write pictures of a search: its history, what each parameter matters, and the combinations.

    What cannot be drawn yet, such as importances after a single trial, is left out.
    """
    name = f"validation {metric}"
    matplotlib.use("Agg")
    # Optuna calls these functions experimental; nothing is to be done about that by who sees it.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

    drawings = {
        "history": lambda: plots.plot_optimization_history(study, target_name=name),
        "importance": lambda: plots.plot_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            target_name=name,
        ),
        "parallel_coordinates": lambda: plots.plot_parallel_coordinate(study, target_name=name),
    }
    written = []
    for title, draw in drawings.items():
        try:
            figure = draw().figure
        except (RuntimeError, ValueError):
            continue
        figure.set_size_inches(10, 6)
        path = folder / f"{title}.png"
        figure.savefig(path, dpi=100, bbox_inches="tight")
        written.append(path)
    return written
