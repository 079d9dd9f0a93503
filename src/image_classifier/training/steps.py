"""The steps of a training, for src/train.py and the trials of sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dvclive import Live

from image_classifier.common.params import Params
from image_classifier.computing.openvino_model import (
    add_classifier,
    classifier_of,
    openvino,
    read_model,
)
from image_classifier.computing.prepared import PREPARED, TABLE, PreparedSplit, check_shape
from image_classifier.computing.prepared_network import EXTRACTOR, check_network
from image_classifier.networks.tensorflow_setup import in_float32, keras, make_deterministic, tf
from image_classifier.networks.translation import check_translation, translate_model
from image_classifier.outputs.live import StageLog
from image_classifier.outputs.metadata import Metadata, describe_training
from image_classifier.outputs.openvino_file import OPENVINO_FILE, save_translated
from image_classifier.outputs.prediction_log import log_confusion_matrix, log_prediction_sheet
from image_classifier.outputs.sheets import worst_first
from image_classifier.training.batches import ordered_batches, training_batches
from image_classifier.training.callbacks import (
    LogBestEpoch,
    LogLearningRate,
    LogPredictions,
    LogSpeed,
    StopAtNaN,
)
from image_classifier.training.checkpoint import Checkpoint, state_variables
from image_classifier.training.classifier import build_networks
from image_classifier.training.distribution import Distribution, open_distribution
from image_classifier.training.features import ROWS_AT_ONCE, fit_on_features
from image_classifier.training.model_file import MODEL_FILE, save_classifier, save_model
from image_classifier.training.optimization import FittedNetwork, Schedule, compile_network

PREDICTED_AT_ONCE = 64  # images
COMPARED_IMAGES = 4  # on which the translated model is compared with Keras


class Training(NamedTuple):
    """The data, networks and devices of a training."""

    params: Params
    class_names: list[str]
    train: PreparedSplit
    validation: PreparedSplit
    network: FittedNetwork
    model: keras.Model | None  # see `classifier.Networks`
    schedule: Schedule  # the learning rate of each step
    distribution: Distribution

    @property
    def inputs(self) -> list[Path]:
        """The files that determine the result, besides sources and parameters."""
        weights = Path(self.params.model.weights).expanduser()
        return [TABLE, *sorted(PREPARED.glob("*.npy")), weights]


def build(
    params: Params, class_names: list[str], train: PreparedSplit, validation: PreparedSplit
) -> Training:
    """Seed all random number generators, and build and compile the networks.

    Raises:
        InputError: if the prepared data does not fit the network, its weights cannot be loaded, or
            the machines of `train.strategy` cannot be reached.
    """
    if params.model.frozen:
        check_network(params)
    make_deterministic(params.train.seed)
    distribution = open_distribution(params.train.strategy)
    with distribution.scope():
        networks = build_networks(params, train.views.shape[-1], len(class_names))
        check_shape(train.views, networks.fitted.input_shape[1:])
        schedule = compile_network(networks.fitted, params, train.labels)
    network, model = distribution.apply(networks)
    return Training(params, class_names, train, validation, network, model, schedule, distribution)


def reuse(training: Training, earlier: Training) -> Training:
    """`training` with the networks of an earlier one of the same `structure`, traced already.

    Their variables get the values that those of `training` have.
    """
    for old, new in zip(_state(earlier.network), _state(training.network), strict=True):
        old.assign(new)
    return training._replace(
        network=earlier.network, model=earlier.model, schedule=earlier.schedule
    )


def structure(params: Params) -> str:
    """The parameters that determine which operations a training consists of, as JSON."""
    return params.model_dump_json(
        include={"prepare": ..., "model": ..., "train": {"optimizer", "momentum", "strategy"}}
    )


def _state(network: FittedNetwork) -> list[keras.Variable | tf.Variable]:
    return [*state_variables(network), *network.numbers]


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
    probabilities = predict_probabilities(training, validation)
    log_confusion_matrix(live, validation.labels, probabilities, class_names)
    rows = worst_first(validation.labels, probabilities)[: training.params.train.log_images]
    if len(rows):
        name = "worst_validation_predictions.jpg"
        title = f"Validation images after epoch {checkpoint.best + 1}, the worst first"
        log_prediction_sheet(live, name, validation, rows, probabilities, class_names, title)


def predict_probabilities(training: Training, split: PreparedSplit) -> np.ndarray:
    """The trained network's probabilities for a split, float32 (n, class_count)."""
    views = split.views
    if training.model:
        batches = ordered_batches(views, split.labels, PREDICTED_AT_ONCE)
        return training.model.predict(batches, verbose=0)
    # Called without compiling: compiling so few operations takes longer than running them.
    rows = range(0, views.shape[1], ROWS_AT_ONCE)
    logits = [training.network(views[0, row : row + ROWS_AT_ONCE]) for row in rows]
    return keras.ops.softmax(keras.ops.concatenate(logits)).numpy()


def translate(training: Training) -> openvino.Model:
    """The trained model, translated to OpenVINO.

    Raises:
        InputError: if OpenVINO gives other numbers than Keras.
    """
    inputs = training.validation.views[0, :COMPARED_IMAGES]
    with in_float32():
        logits = training.network(inputs, training=False)
    if training.model:
        translated = compared = translate_model(training.model)
    else:
        translated = add_classifier(read_model(EXTRACTOR), *training.network.get_weights())
        compared = classifier_of(translated)
    expected, largest = keras.ops.softmax(logits).numpy(), np.abs(logits).max()
    check_translation(compared, "probabilities", inputs, expected, largest)
    return translated


def save(training: Training, checkpoint: Checkpoint, translated: openvino.Model) -> None:
    """Write both model files, with the training data and parameters in their metadata.

    Raises:
        InputError: if the disk has too little space.
    """
    best, image_count = checkpoint.best, len(training.train.labels)
    accuracy = checkpoint.epoch_logs[best]["val_accuracy"]
    metadata = Metadata(
        training.class_names,
        describe_training(training.params, TABLE, image_count, best + 1, accuracy),
    )
    if training.model:
        save_model(training.model, metadata, MODEL_FILE)
    else:
        save_classifier(*training.network.get_weights(), metadata, MODEL_FILE)
    save_translated(translated, metadata, OPENVINO_FILE)


def _fit(training: Training, first_epoch: int, callbacks: list[keras.callbacks.Callback]) -> None:
    train, validation, part = training.train, training.validation, training.distribution.part
    network, params = training.network, training.params.train
    if training.params.model.frozen and not part:
        fit_on_features(network, train, validation, params, first_epoch, callbacks)
        return
    size, seed = params.batch_size, params.seed
    at_once = ROWS_AT_ONCE if training.params.model.frozen else size
    network.fit(
        training_batches(train.views, train.labels, size, seed, first_epoch, part),
        validation_data=ordered_batches(validation.views, validation.labels, at_once, part),
        initial_epoch=first_epoch,
        epochs=params.last_epoch,
        shuffle=False,  # the batches are shuffled already
        callbacks=[*callbacks, *training.distribution.callbacks()],
        verbose=0,  # src/train.py has a line for each epoch, where Keras prints two
    )
