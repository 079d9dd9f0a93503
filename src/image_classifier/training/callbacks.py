"""Keras callbacks for each epoch: they log more than DVCLive's own callback, or stop a training."""

import math
import time

import numpy as np
from dvclive import Live

from image_classifier.common.errors import InputError
from image_classifier.common.progress import progress_bar
from image_classifier.common.raw_data import RAW_DATA
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.outputs.live import StageLog
from image_classifier.outputs.sheets import load_images, prediction_sheet
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.optimization import Schedule

# DVC's extension shows images named by their step in one folder with a slider.
SHEETS = "validation_predictions"
SHEETS_KEPT = 7  # evenly spaced epochs, besides the best one

EPOCH_LINE = "{:>7}  {:>14}  {:>7}  {:>19}  {:>7}  {:>7}"


class LogLearningRate(keras.callbacks.Callback):
    """Log the learning rate of each epoch's last step."""

    def __init__(self, live: Live, schedule: Schedule) -> None:
        super().__init__()
        self._live = live
        self._schedule = schedule

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last_step = self.model.optimizer.iterations - 1
        self._live.log_metric("learning_rate", float(self._schedule(last_step)))


class LogSpeed(keras.callbacks.Callback):
    """Log the seconds that each epoch takes, including its validation.

    Put it first among the callbacks: the time of callbacks before it does not count.
    """

    def __init__(self, system: Live) -> None:
        super().__init__()
        self._system = system

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._system.step = epoch + 1
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._system.log_metric("epoch_seconds", time.perf_counter() - self._start)


class LogBestEpoch(keras.callbacks.Callback):
    """Log which epoch is the best so far by validation accuracy, and its metrics.

    Put it after `Checkpoint.best_epoch`, and before the callback that writes metrics.json.
    """

    def __init__(self, live: StageLog, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._live = live
        self._checkpoint = checkpoint

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        best = self._checkpoint.best
        self._log(best, logs if best == epoch else self._checkpoint.epoch_logs[best])

    def on_train_end(self, logs: dict | None = None) -> None:
        # A training that resumes after its last epoch has no further one.
        best = self._checkpoint.best
        self._log(best, self._checkpoint.epoch_logs[best])

    def _log(self, best: int, metrics: dict[str, float]) -> None:
        self._live.log_metric("best/epoch", best + 1, plot=False)
        for name in ("accuracy", "loss"):
            self._live.log_metric(f"best/eval/{name}", metrics[f"val_{name}"], plot=False)
        accuracy = self._live.summary["best"]["eval"]["accuracy"]
        # A file of its own, as a table of experiments has room for one number of the training.
        self._live.write_json("best.json", {"best": {"eval": {"accuracy": accuracy}}})


class PrintEpochs(keras.callbacks.Callback):
    """Print a table with a line for each epoch, and show a progress bar until the line is there.

    Put it last among the callbacks: a printed epoch has been logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._printed_header = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if not self._printed_header:
            titles = ("train accuracy", "loss", "validation accuracy", "loss")
            print(EPOCH_LINE.format("epoch", *titles, "seconds"))
            self._printed_header = True
        self._start = time.perf_counter()
        self._name = f"{epoch + 1}/{self.params['epochs']}"
        self._bar = progress_bar(f"epoch {self._name}", self.params["steps"], "step")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._bar.update()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._bar.close()
        self._bar = progress_bar(f"epoch {self._name}, validation", None, "step")

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._bar.close()
        names = ("accuracy", "loss", "val_accuracy", "val_loss")
        metrics = [f"{logs[name]:.4f}" for name in names]
        seconds = f"{time.perf_counter() - self._start:.1f}"
        print(EPOCH_LINE.format(self._name, *metrics, seconds))
        if self.model.stop_training:
            print("stopped early: the validation accuracy no longer improves")


class StopAtNaN(keras.callbacks.Callback):
    """Stop a diverging training. Put it after the logging callbacks, to log its last epoch."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self._learning_rate = learning_rate

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """
        Raises:
            InputError: if a metric is not finite.
        """
        for name, value in logs.items():
            if not math.isfinite(value):
                raise InputError(
                    f"train.learning_rate: found {self._learning_rate:.7g}, with which the "
                    f"training diverges: after epoch {epoch + 1} its {name} is {value}; try a "
                    "lower one, and look at dvclive/train/report.html"
                )


class LogPredictions(keras.callbacks.Callback):
    """Log a sheet of predictions for the same few validation images after each epoch.

    At the end of the training, only the sheets of the first, the best, the last and about five
    epochs between stay.
    """

    def __init__(
        self,
        live: StageLog,
        checkpoint: Checkpoint,
        validation: PreparedSplit,
        class_names: list[str],
        count: int,
    ) -> None:
        """Choose `count` images, 0 for no sheets, spread evenly over the split.

        Raises:
            InputError: naming the file, if an image cannot be decoded.
        """
        super().__init__()
        total = len(validation.records)
        rows = np.linspace(0, total - 1, min(count, total)).astype(int)
        records = [validation.records[row] for row in rows]
        self._live = live
        self._checkpoint = checkpoint
        self._class_names = class_names
        self._inputs = validation.views[0, rows]
        self._true_names = [record.class_name for record in records]
        self._images = load_images(RAW_DATA, records)
        self._probabilities: dict[int, np.ndarray] = {}  # by the number of the epoch, from 1

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not self._images:
            return
        logits = self.model(self._inputs, training=False)
        self._probabilities[epoch + 1] = keras.ops.softmax(logits).numpy()
        if self._live.watched:
            self._log(epoch + 1)

    def on_train_end(self, logs: dict | None = None) -> None:
        last = len(self._checkpoint.epoch_logs)
        kept = {*np.linspace(1, last, SHEETS_KEPT).round().astype(int), self._checkpoint.best + 1}
        if self._live.watched:
            for number in set(range(1, last + 1)) - kept:
                self._live.remove_image(f"{SHEETS}/{number}.jpg")
        else:
            for number in kept & self._probabilities.keys():
                self._log(number)

    def _log(self, number: int) -> None:
        sheet = prediction_sheet(
            self._images,
            self._true_names,
            self._probabilities[number],
            self._class_names,
            f"Validation images after epoch {number}",
        )
        self._live.log_image(f"{SHEETS}/{number}.jpg", sheet)
