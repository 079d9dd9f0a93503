"""What a training minimises, and how."""

import math

import numpy as np
import pytest

from helpers.models import params_with
from image_classifier.common.params import TrainParams
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.training.optimization import (
    FittedNetwork,
    Schedule,
    balanced_weights,
    build_optimizer,
    compile_network,
    number,
)

LABELS = np.array([0, 0, 0, 1, 2, 2])


def train_params(**changes: object) -> TrainParams:
    return params_with().train.model_copy(update=changes)


def rates(count: int, **changes: object) -> list[float]:
    """The learning rates of the first steps, with 10 steps per epoch."""
    schedule = Schedule(train_params(**changes), steps_per_epoch=10)
    return [float(schedule(step)) for step in range(count)]


def test_the_learning_rate_falls_along_a_cosine():
    found = rates(50, learning_rate=0.2, schedule="cosine", warmup_epochs=1, epochs=5)
    assert found[:10] == pytest.approx([0.02 * step for step in range(10)])
    cosine = [0.1 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert found[10:] == pytest.approx(cosine, abs=1e-7)


def test_a_constant_learning_rate_may_warm_up():
    constant = {"learning_rate": 0.2, "schedule": "constant", "epochs": 5}
    assert rates(50, warmup_epochs=0, **constant) == pytest.approx([0.2] * 50)
    found = rates(50, warmup_epochs=2, **constant)
    assert found == pytest.approx([0.01 * step for step in range(20)] + [0.2] * 30)


def test_all_epochs_may_be_warm_up():
    assert rates(10, learning_rate=1.0, warmup_epochs=1, epochs=1) == pytest.approx(
        [step / 10 for step in range(10)]
    )


def test_stopping_a_trial_does_not_change_its_learning_rates():
    assert rates(50, epochs=5, stop_after=2) == rates(50, epochs=5)


def build_network(**changes: object) -> FittedNetwork:
    """A compiled network whose logits are its inputs."""
    inputs = keras.Input((3,))
    network = FittedNetwork(inputs, keras.layers.Identity()(inputs))
    params = params_with()
    params = params.model_copy(update={"train": train_params(**changes)})
    compile_network(network, params, LABELS)
    return network


def build(params: TrainParams) -> keras.optimizers.Optimizer:
    """An optimizer for 10 steps per epoch."""
    schedule = Schedule(params, steps_per_epoch=10)
    return build_optimizer(params, schedule, number(params.weight_decay))


LOGITS = np.array([[2, 0, 1], [0, 1, 0], [5, 5, 5], [0, 9, 0], [1, 2, 3], [3, 2, 1]], np.float32)
LOG_PROBABILITIES = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
CROSS_ENTROPY = -LOG_PROBABILITIES[np.arange(6), LABELS]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(
    ("class_weights", "weights"),
    [("none", np.ones(6)), ("balanced", np.array([2 / 3, 2 / 3, 2 / 3, 2, 1, 1]))],
)
def test_only_training_smooths_and_weights(
    smoothing: float, class_weights: str, weights: np.ndarray
):
    network = build_network(label_smoothing=smoothing, class_weights=class_weights)
    smoothed = (1 - smoothing) * CROSS_ENTROPY - smoothing * LOG_PROBABILITIES.mean(axis=1)
    found = network.compute_loss(LOGITS, LABELS, LOGITS, None, training=True)
    assert float(found) == pytest.approx((smoothed * weights).mean(), rel=1e-5)
    found = network.compute_loss(LOGITS, LABELS, LOGITS, None, training=False)
    assert float(found) == pytest.approx(CROSS_ENTROPY.mean(), rel=1e-5)


def test_balanced_classes_count_equally():
    labels = np.repeat([0, 1, 3], [90, 9, 1])
    weights = balanced_weights(labels, class_count=4)
    sums = np.bincount(labels, weights[labels], minlength=4)
    assert sums == pytest.approx([100 / 3, 100 / 3, 0, 100 / 3])
    assert weights[2] == 1  # no training image


@pytest.mark.parametrize(
    ("optimizer", "decay", "step"),
    # The first step of Adam has the length of the learning rate in each direction.
    [
        ("adam", 0.0, 0.1),
        ("adamw", 0.0, 0.1),
        ("adamw", 0.5, 0.1),
        ("sgd", 0.0, 0.2),
        ("sgd", 0.5, 0.2),
    ],
)
def test_optimizers_decay_weights_but_no_biases(optimizer: str, decay: float, step: float):
    params = train_params(
        optimizer=optimizer,
        momentum=0.0,
        weight_decay=decay,
        learning_rate=0.1,
        schedule="constant",
        warmup_epochs=0,
    )
    weight = keras.Variable([4.0], name="kernel")
    bias = keras.Variable([4.0], name="bias")
    built = build(params)
    gradient = np.array([2.0], np.float32)
    built.apply_gradients([(gradient, weight), (gradient, bias)])
    assert weight.numpy()[0] == pytest.approx(4 - 4 * decay * 0.1 - step, rel=1e-5)
    assert bias.numpy()[0] == pytest.approx(4 - step, rel=1e-5)


def test_momentum_repeats_a_part_of_the_last_step():
    params = train_params(
        optimizer="sgd", momentum=0.5, learning_rate=1.0, schedule="constant", warmup_epochs=0
    )
    weight = keras.Variable([0.0], name="kernel")
    built = build(params)
    built.apply_gradients([(np.array([1.0], np.float32), weight)])
    built.apply_gradients([(np.array([0.0], np.float32), weight)])
    assert weight.numpy()[0] == pytest.approx(-1.5)
