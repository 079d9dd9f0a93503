"""Fit the network, logging each epoch, and save the weights of the best one."""

import sys
from collections.abc import Sequence
from pathlib import Path

from image_classifier.errors import run
from image_classifier.inputs import StageInputs
from image_classifier.metadata import describe_training
from image_classifier.params import read_params
from image_classifier.prepared import FOLDER as PREPARED
from image_classifier.prepared import TABLE, open_splits
from image_classifier.raw_data import FOLDER as RAW

MODEL = Path("models/model.keras")


def main(callbacks: Sequence = ()):
    """Train as params.yaml says, from where an earlier start of it was interrupted.

    Args:
        callbacks: of Keras, besides those below. With any, this is a trial of a search: it begins
            anew after an interruption, and if one of them stops the training, this is recorded as
            train.stop_after, which stops it there again.

    Returns:
        The model that is saved; on a worker that is not the chief of `train.strategy:
        multi_worker`, None.
    """
    inputs = StageInputs("train")
    params = read_params()
    class_names, (train, validation) = open_splits("train", "validation")

    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.tensorflow_setup import keras, make_deterministic

    make_deterministic(params.train.seed)
    from dvclive.keras import DVCLiveCallback

    from image_classifier.batches import ordered_batches, training_batches
    from image_classifier.callbacks import LogLearningRate, LogPredictions, LogSpeed, StopAtNaN
    from image_classifier.checkpoint import Checkpoint
    from image_classifier.distribution import open_distribution
    from image_classifier.live import open_live, open_system_monitor
    from image_classifier.model import (
        FEATURES_AT_ONCE,
        check_shape,
        predict_probabilities,
        save_model,
    )
    from image_classifier.networks import build_networks, compile_network
    from image_classifier.pictures import load_pictures, prediction_sheet, worst_first

    distribution = open_distribution(params.train.strategy)
    with distribution.scope():
        networks = build_networks(params, len(class_names))
        check_shape(train.views, networks.fitted)
        compile_network(networks.fitted, params)
    network, model = distribution.apply(networks)
    epochs, batch_size = params.train.epochs, params.train.batch_size
    validation_batch_size = FEATURES_AT_ONCE if params.model.frozen else batch_size
    weights = Path(params.model.weights).expanduser()
    identity = None if callbacks else inputs.identity(PREPARED, weights)

    def fit(first_epoch: int, callbacks: Sequence, verbose: int) -> None:
        views, labels, part = train.views, train.labels, distribution.part
        network.fit(
            training_batches(views, labels, batch_size, params.train.seed, first_epoch, part),
            validation_data=ordered_batches(
                validation.views, validation.labels, validation_batch_size, part
            ),
            initial_epoch=first_epoch,
            epochs=params.train.stop_after or epochs,
            shuffle=False,  # the batches are
            callbacks=[*callbacks, *distribution.callbacks()],
            verbose=verbose,
        )

    if not distribution.is_chief:
        with distribution.noticing_losses():
            fit(distribution.first_epoch(identity, 0), [StopAtNaN()], verbose=0)
        return None

    with (
        open_live("dvclive/train", save_stage="train") as live,
        open_system_monitor("dvclive/system") as system,
        distribution.noticing_losses(),
    ):
        live.log_params(
            params.model_dump(
                include={"prepare", "model", "train"}, exclude={"prepare": {"engine"}}
            )
        )
        # Until the end of training: DVC reports plots that are missing as errors.
        live.log_sklearn_plot("confusion_matrix", [], [])
        live.step = 1  # the number Keras gives to the first epoch
        best_epoch = keras.callbacks.EarlyStopping(
            "val_accuracy", mode="max", patience=epochs, restore_best_weights=True
        )
        checkpoint = Checkpoint(identity, best_epoch, loggers=[live, system])
        first_epoch = distribution.first_epoch(identity, len(checkpoint.epoch_logs))
        fit(
            first_epoch,
            [
                LogSpeed(system, len(train.labels)),
                LogLearningRate(live),
                LogPredictions(live, RAW, validation, class_names, params.train.log_images),
                DVCLiveCallback(live=live),
                StopAtNaN(),
                best_epoch,
                checkpoint,
                *callbacks,
            ],
            verbose=1 if sys.stdout.isatty() else 2,
        )
        history = checkpoint.epoch_logs

        stopped_after = len(history)
        if stopped_after < epochs:
            live.log_params({"train": {**params.train.model_dump(), "stop_after": stopped_after}})
        best = best_epoch.best_epoch
        live.log_metric("best/epoch", best + 1, plot=False)
        for name, metric in (("loss", "val_loss"), ("accuracy", "val_accuracy")):
            live.log_metric(f"best/eval/{name}", history[best][metric], plot=False)

        probabilities = predict_probabilities(model, validation.views)
        live.log_sklearn_plot(
            "confusion_matrix",
            [class_names[label] for label in validation.labels],
            [class_names[label] for label in probabilities.argmax(axis=1)],
        )
        rows = worst_first(validation.labels, probabilities)[: params.train.log_images]
        if len(rows):
            records = [validation.records[row] for row in rows]
            sheet = prediction_sheet(
                load_pictures(RAW, records),
                [record.class_name for record in records],
                probabilities[rows],
                class_names,
                title=f"Validation pictures after epoch {best + 1}, the worst first",
            )
            live.log_image("worst_validation_predictions.jpg", sheet)

        accuracy = history[best]["val_accuracy"]
        trained_on = describe_training(params, TABLE, len(train.labels), best + 1, accuracy)
        inputs.check_unchanged()
        save_model(model, class_names, trained_on, MODEL)
    checkpoint.remove()
    return model


if __name__ == "__main__":
    run(main)
