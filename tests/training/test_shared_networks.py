"""Trainings that share one network, as the trials of a sweep do."""

from itertools import pairwise

import numpy as np
import pytest

from helpers.models import params_with
from image_classifier.common.params import Params
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.training import steps
from image_classifier.training.features import fit_on_features

CHANGES = [
    {"learning_rate": 0.1, "schedule": "constant", "warmup_epochs": 0, "dropout": 0.0},
    {"dropout": 0.6, "weight_decay": 0.3, "batch_size": 7, "epochs": 2},
    {"label_smoothing": 0.2, "class_weights": "balanced", "seed": 1},
]


def made_split(count: int) -> PreparedSplit:
    """Two views of random features of three classes."""
    random = np.random.default_rng(count)
    labels = random.integers(3, size=count)
    return PreparedSplit([], labels, random.random((2, count, 5), np.float32))


class History(keras.callbacks.Callback):
    """The metrics of all epochs."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.metrics: list[dict] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.metrics.append(logs)


def result(training: steps.Training) -> tuple[list, list]:
    """The metrics and the weights of a training."""
    history = History()
    fit_on_features(
        training.network,
        training.train,
        training.validation,
        training.params.train,
        0,
        [history],
    )
    return history.metrics, [weight.tolist() for weight in training.network.get_weights()]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_shared_network_gives_the_results_of_a_new_one(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(steps, "check_network", lambda params: None)  # nothing is prepared

    def build(changes: dict) -> steps.Training:
        params = params_with(backbone="mobilenet_v2")
        changes = {"optimizer": optimizer, "epochs": 3, "batch_size": 4, **changes}
        params = params.model_copy(update={"train": params.train.model_copy(update=changes)})
        return steps.build(params, ["a", "b", "c"], made_split(30), made_split(10))

    shared = build({})
    results = [result(shared)]
    for changes in CHANGES:
        training = build(changes)
        assert steps.structure(training.params) == steps.structure(shared.params)
        results.append(result(training))
        assert result(steps.reuse(build(changes), shared)) == results[-1]
    assert result(steps.reuse(build({}), shared)) == results[0]
    assert all(first != second for first, second in pairwise(results))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "optimizer", "sgd"),
        ("train", "momentum", 0.5),
        ("model", "fine_tune_layers", 1),
        ("prepare", "rotation", 0.1),
    ],
)
def test_a_change_of_the_operations_is_noticed(section: str, name: str, value: object):
    params = params_with(backbone="mobilenet_v2")
    assert steps.structure(changed(params, section, name, value)) != steps.structure(params)


def changed(params: Params, section: str, name: str, value: object) -> Params:
    part = getattr(params, section).model_copy(update={name: value})
    return params.model_copy(update={section: part})
