"""The format of a sweep file such as sweeps/learning_rate.yaml."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import optuna
from pydantic import AfterValidator, Field, ValidationError, model_validator

from image_classifier.common.params import ModelParams, Params, PositiveInt, Seed, TrainParams
from image_classifier.common.strict_yaml import Section, explain, nearest, read_yaml, refusal, shown
from image_classifier.sweeps.trials import PREPARE_PARAMETERS

Number = Annotated[int | float, Field(ge=-(2**32), le=2**32)]
OptionalNumber = Annotated[Number | None, Field(description=f"a number, {-(2**32):,} to {2**32:,}")]
Value = bool | int | float | str
Choices = Annotated[
    Annotated[list[Value], Field(min_length=1, max_length=1_000)] | None,
    Field(description="a list of 1 to 1,000 numbers, words, true and false"),
]
SEARCHED = [
    *(f"train.{key}" for key in TrainParams.model_fields),
    *(f"model.{key}" for key in ModelParams.model_fields),
    *(name for name in PREPARE_PARAMETERS if name.startswith("prepare.")),
]
PARAMETERS = [
    f"{section}.{key}"
    for section, field in Params.model_fields.items()
    for key in field.annotation.model_fields
]
MOST_VALUES = 100_000  # in a grid, which is kept in memory


class SearchedParameter(Section):
    """The values that one parameter may take: `choices`, or a range including both ends."""

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
                raise ValueError("found choices and a range; allowed: either")
        elif None in bounds:
            raise ValueError("found an incomplete range; allowed: choices, or low and high")
        elif self.low > self.high:
            raise ValueError(f"found low {self.low}; allowed: at most high, {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"found low {self.low}; allowed with log: above 0")
        elif self.log and self.step is not None:
            raise ValueError(f"found log and step {self.step}; allowed: either")
        elif self.step is not None and self.step <= 0:
            raise ValueError(f"found step {self.step}; allowed: above 0")
        elif self.step is not None and (self.high - self.low) / self.step > MOST_VALUES:
            raise ValueError(
                f"found step {self.step}; allowed: at most {MOST_VALUES:,} steps from low to high"
            )
        return self

    @property
    def whole(self) -> bool:
        """Whether all values of the range are whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    def extremes(self) -> list[Value]:
        """All `choices`, or both ends of the range, with the types that `suggest` returns."""
        if self.choices is not None:
            return self.choices
        ends = [self.low, self.high]
        return ends if self.whole else [float(end) for end in ends]

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Let a trial choose a value; a whole number if low, high and step are whole."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        if self.whole:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def allows(self, value: Value | None) -> bool:
        """Whether a trial can choose this value."""
        if self.choices is not None:
            return value in self.choices
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        step = self.step or (1 if self.whole else None)
        return step is None or math.isclose(math.remainder(value - self.low, step), 0, abs_tol=1e-9)

    def grid(self) -> list[Value] | None:
        """All values, or None if their number is not limited."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        # Rounded: 0.3 rather than 0.30000000000000004.
        return [round(self.low + number * self.step, 12) for number in range(count)]


def _known(name: str) -> str:
    if name not in SEARCHED:
        near = None if name in PARAMETERS else nearest(name, SEARCHED)
        allowed = f"did you mean {near!r}?" if near else f"allowed: {', '.join(SEARCHED)}"
        found = "not varied by sweeps" if name in PARAMETERS else "unknown"
        raise ValueError(f"{found}; {allowed}")
    return name


class Sweep(Section):
    """The whole file."""

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
        """Number of trials of a grid; infinite for other sweeps."""
        if self.sampler != "grid":
            return math.inf
        return math.prod(len(parameter.grid()) for parameter in self.parameters.values())

    def present(self, params: Params) -> dict[str, Value] | None:
        """The present values of the parameters, or None if no trial can choose them."""
        sections = params.model_dump()
        values = {}
        for name, parameter in self.parameters.items():
            section, key = name.split(".")
            values[name] = sections[section][key]
            if not parameter.allows(values[name]):
                return None
        return values

    def grid(self) -> list[dict[str, Value]]:
        """All combinations of a grid, in an order that depends on the seed."""
        values = itertools.product(*(parameter.grid() for parameter in self.parameters.values()))
        combinations = [dict(zip(self.parameters, chosen, strict=True)) for chosen in values]
        random.Random(self.seed).shuffle(combinations)
        return combinations


def read_sweep(path: Path, params: Params) -> Sweep:
    """Read and check a sweep.

    Args:
        path: of the file.
        params: the parameters of all trials, except those that the sweep changes.

    Raises:
        InputError: has a line for each fault, and for each value of the sweep that its parameter
            does not allow, or that is never allowed together with `params`.
    """
    values = read_yaml(path)
    sweep, reasons = None, []
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        reasons = explain(error, Sweep)
    searched = values.get("parameters") if isinstance(values, dict) else None
    searched = searched if isinstance(searched, dict) else {}
    for name in filter(SEARCHED.__contains__, searched):
        try:
            parameter = SearchedParameter.model_validate(searched[name])
        except ValidationError:  # already among the reasons
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
) -> Iterator[str]:
    """A line for each value that the parameter does not allow; the sweep also varies `others`."""
    section, key = name.split(".")
    for value in parameter.extremes():
        values = params.model_dump()
        values[section][key] = value
        try:
            Params.model_validate(values)
        except ValidationError as error:
            for reason in explain(error, Params, varying=others):
                own = reason.startswith(f"{name}: ")
                yield f"parameters.{reason if own else f'{name}: found {shown(value)}; {reason}'}"
