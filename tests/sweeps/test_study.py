"""Optuna's record of the trials, and the values that it chooses."""

import itertools
from pathlib import Path

import pytest
from optuna import Study, Trial

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
