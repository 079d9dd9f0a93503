"""Fit a network on features: Keras' `fit` would take several times as long.

A training on features takes seconds, of which the network computes a fraction. The rest would be
pipelines of tf.data, and tracing steps that search them for a next batch.
"""

from collections.abc import Sequence

from image_classifier.common.params import TrainParams
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.training.batches import split_order, training_order
from image_classifier.training.optimization import FittedNetwork

ROWS_AT_ONCE = 4096  # without training


def fit_on_features(
    network: FittedNetwork,
    train: PreparedSplit,
    validation: PreparedSplit,
    params: TrainParams,
    first_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Train and validate as `fit` does, on the batches of `batches.training_batches`."""
    size, row_bytes = params.batch_size, train.views[0, 0].nbytes
    steps = len(split_order(train.labels, size, row_bytes))
    hooks = keras.callbacks.CallbackList(
        callbacks, model=network, epochs=params.last_epoch, steps=steps
    )
    network.stop_training = False
    hooks.on_train_begin()
    for epoch in range(first_epoch, params.last_epoch):
        hooks.on_epoch_begin(epoch)
        view, order = training_order(train.views, params.seed, epoch)
        network.reset_metrics()
        for step, rows in enumerate(split_order(order, size, row_bytes)):
            logs = network.train_batches(train.views[view, rows], train.labels[rows], size)
            hooks.on_train_batch_end(step)
        found = evaluate_features(network, validation, hooks)
        logs = {**_numbers(logs), **{f"val_{name}": value for name, value in found.items()}}
        hooks.on_epoch_end(epoch, logs)
        if network.stop_training:
            break
    hooks.on_train_end()


def evaluate_features(
    network: FittedNetwork, split: PreparedSplit, hooks: keras.callbacks.CallbackList
) -> dict[str, float]:
    """The loss and accuracy of a split."""
    network.reset_metrics()
    hooks.on_test_begin()
    for start in range(0, len(split.labels), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        logs = network.test_batch(split.views[0, rows], split.labels[rows])
        hooks.on_test_batch_end(start // ROWS_AT_ONCE)
    return _numbers(logs)


def _numbers(logs: dict) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}
