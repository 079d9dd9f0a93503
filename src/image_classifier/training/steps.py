"""The steps of a training, for src/train.py and the trials of sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dvclive import Live

from image_classifier.common.params import Params
from image_classifier.computing.prepared import PREPARED, TABLE, PreparedSplit
from image_classifier.computing.tensorflow_setup import keras, make_deterministic
from image_classifier.outputs.batches import ordered_batches, training_batches
from image_classifier.outputs.live import StageLog
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
    LogBestEpoch,
    LogLearningRate,
    LogPredictions,
    LogSpeed,
    StopAtNaN,
)
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.classifier import build_networks
from image_classifier.training.distribution import Distribution, open_distribution
from image_classifier.training.optimization import Schedule, compile_network


class Training(NamedTuple):
    """The data, networks and devices of a training."""

    params: Params
    class_names: list[str]
    train: PreparedSplit
    validation: PreparedSplit
    network: keras.Model  # is fitted
    model: keras.Model  # is saved; shares the weights of `network`
    schedule: Schedule  # the learning rate of each step
    distribution: Distribution

    @property
    def inputs(self) -> list[Path]:
        """The files that determine the result, besides sources and parameters."""
        return [PREPARED, Path(self.params.model.weights).expanduser()]


def build(
    params: Params, class_names: list[str], train: PreparedSplit, validation: PreparedSplit
) -> Training:
    """Seed all random number generators, and build and compile the networks.

    Raises:
        InputError: if the prepared data does not fit the network, its weights cannot be loaded, or
            the machines of `train.strategy` cannot be reached.
    """
    make_deterministic(params.train.seed)
    distribution = open_distribution(params.train.strategy)
    with distribution.scope():
        networks = build_networks(params, len(class_names))
        check_shape(train.views, networks.fitted)
        schedule = compile_network(networks.fitted, params, train.labels)
    network, model = distribution.apply(networks)
    return Training(params, class_names, train, validation, network, model, schedule, distribution)


def begin_log(live: StageLog, params: Params) -> None:
    """Log the parameters."""
    live.log_params(params.model_dump(include={"prepare", "model", "train"}))
    live.step = 1  # Keras prints the first epoch as 1


def fit(
    training: Training,
    live: StageLog,
    system: Live,
    checkpoint: Checkpoint,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train, and log each epoch. At the end the network has the weights of the best epoch.

    `live` logs metrics and predictions, `system` the training speed, and `checkpoint` keeps the
    metrics of all epochs, including those before an interruption.

    Raises:
        InputError: if the training diverges.
    """
    # Not at the top: it imports TensorFlow, which `tensorflow_setup` must configure first.
    from dvclive.keras import DVCLiveCallback

    params = training.params.train
    next_epoch = checkpoint.next_epoch(params.last_epoch)
    _fit(
        training,
        training.distribution.first_epoch(checkpoint.identity, next_epoch),
        [
            LogSpeed(system),
            LogLearningRate(live, training.schedule),
            LogPredictions(
                live, checkpoint, training.validation, training.class_names, params.log_images
            ),
            checkpoint.best_epoch,
            LogBestEpoch(live, checkpoint),
            DVCLiveCallback(live=live),
            StopAtNaN(params.learning_rate),
            checkpoint,
            *callbacks,
        ],
    )


def fit_beside_chief(training: Training, identity: str) -> None:
    """Train as a worker beside the chief, which alone logs and saves.

    `identity` is a hash of everything the training depends on; the chief's must be the same.
    """
    with training.distribution.noticing_losses():
        first_epoch = training.distribution.first_epoch(identity, 0)
        _fit(training, first_epoch, [StopAtNaN(training.params.train.learning_rate)])


def log_validation(live: StageLog, training: Training, checkpoint: Checkpoint) -> None:
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
    """Write the model file, with the training data and parameters in its metadata."""
    best, image_count = checkpoint.best, len(training.train.labels)
    accuracy = checkpoint.epoch_logs[best]["val_accuracy"]
    trained_on = describe_training(training.params, TABLE, image_count, best + 1, accuracy)
    save_model(training.model, training.class_names, trained_on, MODEL_FILE)


def _fit(training: Training, first_epoch: int, callbacks: list[keras.callbacks.Callback]) -> None:
    train, validation, part = training.train, training.validation, training.distribution.part
    params = training.params.train
    size, seed = params.batch_size, params.seed
    at_once = FEATURES_AT_ONCE if training.params.model.frozen else size
    training.network.fit(
        training_batches(train.views, train.labels, size, seed, first_epoch, part),
        validation_data=ordered_batches(validation.views, validation.labels, at_once, part),
        initial_epoch=first_epoch,
        epochs=params.last_epoch,
        shuffle=False,  # the batches are shuffled already
        callbacks=[*callbacks, *training.distribution.callbacks()],
        verbose=0,  # src/train.py has a line for each epoch, where Keras prints two
    )
