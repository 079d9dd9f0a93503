"""The steps of a training, which src/train.py and each trial of a sweep put together."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dvclive import Live

from image_classifier.common.params import Params
from image_classifier.computing.prepared import PREPARED, TABLE, PreparedSplit
from image_classifier.computing.tensorflow_setup import keras, make_deterministic
from image_classifier.outputs.batches import ordered_batches, training_batches
from image_classifier.outputs.metadata import describe_training
from image_classifier.outputs.model_file import MODEL_FILE, save_model
from image_classifier.outputs.predicting import (
    FEATURES_AT_ONCE,
    check_shape,
    predict_probabilities,
)
from image_classifier.outputs.prediction_log import log_confusion_matrix, log_prediction_sheet
from image_classifier.outputs.sheets import worst_first
from image_classifier.training.callbacks import (
    LogLearningRate,
    LogPredictions,
    LogSpeed,
    StopAtNaN,
)
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.classifier import build_networks, compile_network
from image_classifier.training.distribution import Distribution, open_distribution


class Training(NamedTuple):
    """All that a training consists of."""

    params: Params
    class_names: list[str]
    train: PreparedSplit
    validation: PreparedSplit
    network: keras.Model  # that is fitted
    model: keras.Model  # that is saved; it shares its weights
    distribution: Distribution

    @property
    def inputs(self) -> list[Path]:
        """Files that the result depends on, besides sources and parameters."""
        return [PREPARED, Path(self.params.model.weights).expanduser()]


def build(
    params: Params, class_names: list[str], train: PreparedSplit, validation: PreparedSplit
) -> Training:
    """Seed everything random, and build and compile the networks.

    Raises:
        InputError: if the prepared data does not fit the network, its weights cannot be loaded, or
            the machines of `train.strategy` cannot be reached.
    """
    make_deterministic(params.train.seed)
    distribution = open_distribution(params.train.strategy)
    with distribution.scope():
        networks = build_networks(params, len(class_names))
        check_shape(train.views, networks.fitted)
        compile_network(networks.fitted, params)
    network, model = distribution.apply(networks)
    return Training(params, class_names, train, validation, network, model, distribution)


def begin_log(live: Live, params: Params) -> None:
    """Log the parameters, and a confusion matrix without values: DVC reports missing plots."""
    live.log_params(params.model_dump(include={"prepare", "model", "train"}))
    live.log_sklearn_plot("confusion_matrix", [], [])
    live.step = 1  # the number Keras gives to the first epoch


def fit(
    training: Training,
    live: Live,
    system: Live,
    checkpoint: Checkpoint,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train, and log each epoch; the network has the weights of the best epoch in the end.

    `live` logs metrics and predictions, `system` how fast the epochs are, and `checkpoint` keeps
    the metrics of all epochs, also of those before an interruption.

    Raises:
        InputError: if the training diverges.
    """
    # Not at the top: it imports TensorFlow, which has to start as `tensorflow_setup` says.
    from dvclive.keras import DVCLiveCallback

    count = training.params.train.log_images
    _fit(
        training,
        training.distribution.first_epoch(checkpoint.identity, len(checkpoint.epoch_logs)),
        [
            LogSpeed(system, len(training.train.labels)),
            LogLearningRate(live),
            LogPredictions(live, training.validation, training.class_names, count),
            DVCLiveCallback(live=live),
            StopAtNaN(),
            checkpoint.best_epoch,
            checkpoint,
            *callbacks,
        ],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def fit_beside_chief(training: Training, identity: str) -> None:
    """Train as another worker than the chief, which alone logs and saves.

    `identity` is a hash of all that the training depends on; the chief's must be the same.
    """
    with training.distribution.noticing_losses():
        first_epoch = training.distribution.first_epoch(identity, 0)
        _fit(training, first_epoch, [StopAtNaN()], verbose=0)


def log_best_epoch(live: Live, checkpoint: Checkpoint) -> None:
    """Log which epoch was the best by validation accuracy, and its metrics."""
    live.log_metric("best/epoch", checkpoint.best + 1, plot=False)
    for name in ("loss", "accuracy"):
        metric = checkpoint.epoch_logs[checkpoint.best][f"val_{name}"]
        live.log_metric(f"best/eval/{name}", metric, plot=False)


def log_validation(live: Live, training: Training, checkpoint: Checkpoint) -> None:
    """Log the confusion matrix of the validation images, and a sheet of the worst predictions."""
    validation, class_names = training.validation, training.class_names
    probabilities = predict_probabilities(training.model, validation.views)
    log_confusion_matrix(live, validation.labels, probabilities, class_names)
    rows = worst_first(validation.labels, probabilities)[: training.params.train.log_images]
    if len(rows):
        name = "worst_validation_predictions.jpg"
        title = f"Validation images after epoch {checkpoint.best + 1}, the worst first"
        log_prediction_sheet(live, name, validation, rows, probabilities, class_names, title)


def save(training: Training, checkpoint: Checkpoint) -> None:
    """Write the model file, which says what the model was trained on."""
    best, image_count = checkpoint.best, len(training.train.labels)
    accuracy = checkpoint.epoch_logs[best]["val_accuracy"]
    trained_on = describe_training(training.params, TABLE, image_count, best + 1, accuracy)
    save_model(training.model, training.class_names, trained_on, MODEL_FILE)


def _fit(
    training: Training, first_epoch: int, callbacks: list[keras.callbacks.Callback], verbose: int
) -> None:
    train, validation, part = training.train, training.validation, training.distribution.part
    params = training.params.train
    size, seed = params.batch_size, params.seed
    at_once = FEATURES_AT_ONCE if training.params.model.frozen else size
    training.network.fit(
        training_batches(train.views, train.labels, size, seed, first_epoch, part),
        validation_data=ordered_batches(validation.views, validation.labels, at_once, part),
        initial_epoch=first_epoch,
        epochs=params.stop_after or params.epochs,
        shuffle=False,  # the batches are
        callbacks=[*callbacks, *training.distribution.callbacks()],
        verbose=verbose,
    )
