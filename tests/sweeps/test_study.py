"""Optuna's record of the trials, and the values that it chooses."""

import itertools
from pathlib import Path

import pytest
from optuna import Study, Trial

from helpers.project import REPOSITORY
from image_classifier.common.params import read_params
from image_classifier.sweeps.study import new_trials, open_study
from image_classifier.sweeps.sweep_file import SearchedParameter, Sweep

SETTINGS = {"metric": "accuracy", "pruner": "none", "trials": 6, "seed": 0}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_sampled_numbers_have_four_digits_within_their_range(tmp_path: Path, sampler: str):
    ranges = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "train.dropout": {
            "low": 0.12342,
            "high": 0.12368,
        },  # rounding to 0.1234 or 0.1237 leaves it
    }
    unrounded = {
        "train.epochs": {"low": 10_000, "high": 99_999},
        "train.validation_fraction": {"choices": [0.123456, 0.654321]},
        "model.dropout": {"low": 0.10001, "high": 0.90001, "step": 0.1},
    }
    sweep = Sweep.model_construct(
        sampler=sampler,
        **SETTINGS,
        parameters={
            name: SearchedParameter.model_validate(values)
            for name, values in (ranges | unrounded).items()
        },
    )
    study = open_study(tmp_path / "trials.sqlite3", "some", sweep, epochs=1)
    used = []
    for trial in itertools.islice(new_trials(study, sweep), 30):  # TPE starts after 10 trials
        used.append(
            {name: values.suggest(trial, name) for name, values in sweep.parameters.items()}
        )
        study.tell(trial, used[-1]["train.dropout"])
    assert [trial.params for trial in study.get_trials()] == used
    for values in used:
        for name, bounds in ranges.items():
            value = values[name]
            assert bounds["low"] <= value <= bounds["high"]
            assert value in bounds.values() or value == float(f"{value:.4g}")
        assert values["model.dropout"] in [round(0.10001 + 0.1 * step, 12) for step in range(9)]
        assert values["train.validation_fraction"] in [0.123456, 0.654321]
    assert len({values["train.learning_rate"] for values in used}) == 30
    assert any(values["train.epochs"] % 10 for values in used)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_begins_with_the_present_parameters(tmp_path: Path, sampler: str):
    parameters = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "train.dropout": {"low": 0.0, "high": 0.6, "step": 0.1},
        "train.batch_size": {"choices": [16, 32]},
    }
    sweep = Sweep(sampler=sampler, **SETTINGS, parameters=parameters)
    params = read_params(REPOSITORY / "params.yaml")
    present = sweep.present(params)
    assert list(present) == list(parameters)
    for _ in range(2):  # and not again when it is resumed
        study = open_study(tmp_path / "trials.sqlite3", "some", sweep, 1, present)
        trial = next(new_trials(study, sweep))
        for name, parameter in sweep.parameters.items():
            parameter.suggest(trial, name)
        study.tell(trial, 0.5)
    first, second = study.get_trials()
    assert first.params == present != second.params


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"choices": [16, 64]}, False),
        ({"choices": [16, 32]}, True),
        ({"low": 33, "high": 64}, False),
        ({"low": 8, "high": 64}, True),
        ({"low": 8, "high": 64, "step": 16}, False),
        ({"low": 8, "high": 64, "step": 12}, True),
        ({"low": 8.5, "high": 64}, True),
    ],
)
def test_a_search_that_excludes_a_present_value_begins_elsewhere(values: dict, allowed: bool):
    sweep = Sweep(sampler="tpe", **SETTINGS, parameters={"train.batch_size": values})
    params = read_params(REPOSITORY / "params.yaml")  # its batch size is 32
    assert sweep.present(params) == ({"train.batch_size": 32} if allowed else None)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
@pytest.mark.parametrize("left_in_queue", [False, True])
def test_interrupted_trials_are_repeated(tmp_path: Path, sampler: str, left_in_queue: bool):
    sweep = Sweep(
        metric="accuracy",
        sampler=sampler,
        pruner="none",
        trials=6,
        seed=0,
        parameters={"train.dropout": {"low": 0.0, "high": 0.5, "step": 0.1}},
    )

    def begin(count: int) -> tuple[Study, list[Trial]]:
        study = open_study(tmp_path / "trials.sqlite3", "some", sweep, epochs=1)
        trials = list(itertools.islice(new_trials(study, sweep), count))
        for trial in trials:
            sweep.parameters["train.dropout"].suggest(trial, "train.dropout")
        return study, trials

    study, trials = begin(3)
    study.tell(trials[0], 0.5)
    if left_in_queue:  # interrupted again, after the repeat was queued and before it started
        repeated = trials[1]
        attributes = repeated.user_attrs or {"repeats": repeated.number}
        study.enqueue_trial(repeated.params, user_attrs=attributes)
    study, after = begin(5)
    interrupted = [trial.params for trial in trials[1:]]
    assert [trial.params for trial in after[:2]] == interrupted
    if sampler == "grid":
        values = sorted(trial.params["train.dropout"] for trial in [trials[0], *after])
        assert values == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
        assert list(new_trials(study, sweep)) == []
