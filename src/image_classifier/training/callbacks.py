"""Keras callbacks that look at each epoch, and log what DVCLive's own does not."""

import math
import time

import numpy as np
from dvclive import Live

from image_classifier.common.errors import InputError
from image_classifier.common.raw_data import RAW_DATA
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.outputs.sheets import load_images, prediction_sheet


class LogLearningRate(keras.callbacks.Callback):
    """Log the optimizer's learning rate."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        learning_rate = float(self.model.optimizer.learning_rate.numpy())
        # The digits that a float32 has: 0.005 rather than 0.004999999888241291.
        self._live.log_metric("learning_rate", float(f"{learning_rate:.7g}"))


class LogSpeed(keras.callbacks.Callback):
    """Log how long each epoch takes, in seconds, and how many training images pass in a second.

    Put it first among the callbacks: those before it are counted as part of the epoch.
    """

    def __init__(self, system: Live, image_count: int) -> None:
        super().__init__()
        self._system = system
        self._image_count = image_count

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._system.step = epoch + 1
        self._start = self._trained = time.perf_counter()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        now = time.perf_counter()
        self._system.log_metric("epoch_seconds", now - self._start)
        rate = self._image_count / (self._trained - self._start)
        self._system.log_metric("training_images_per_second", rate)


class StopAtNaN(keras.callbacks.Callback):
    """End a training that diverges, with what has been logged: put it after what logs."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """
        Raises:
            InputError: if a metric is not finite.
        """
        for name, value in logs.items():
            if not math.isfinite(value):
                learning_rate = float(self.model.optimizer.learning_rate.numpy())
                raise InputError(
                    f"train.learning_rate: found {learning_rate:.7g}, with which the training "
                    f"diverges: after epoch {epoch + 1} its {name} is {value}; try a lower one, "
                    "and look at dvclive/train/report.html"
                )


class LogPredictions(keras.callbacks.Callback):
    """Log a sheet of predictions for the same few validation images after each epoch."""

    def __init__(
        self, live: Live, validation: PreparedSplit, class_names: list[str], count: int
    ) -> None:
        """Choose `count` images, 0 for no sheets, spread evenly over the table.

        Raises:
            InputError: naming the file, if an image cannot be decoded.
        """
        super().__init__()
        total = len(validation.records)
        rows = np.linspace(0, total - 1, min(count, total)).astype(int)
        records = [validation.records[row] for row in rows]
        self._live = live
        self._class_names = class_names
        self._inputs = validation.views[0, rows]
        self._true_names = [record.class_name for record in records]
        self._images = load_images(RAW_DATA, records)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not self._images:
            return
        probabilities = keras.ops.softmax(self.model(self._inputs, training=False)).numpy()
        title = f"Validation images after epoch {epoch + 1}"
        sheet = prediction_sheet(
            self._images, self._true_names, probabilities, self._class_names, title
        )
        # DVC's extension shows images named by their step below one folder with a slider.
        self._live.log_image(f"validation_predictions/{epoch + 1}.jpg", sheet)
