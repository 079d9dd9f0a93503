"""Resume an interrupted training after its last finished epoch.

Keras' `BackupAndRestore` keeps only the network and the optimizer. This also keeps the best weights
and the logs, so that the results do not show the interruption.
"""

import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from dvclive import Live

from image_classifier.common.disk import enough_space
from image_classifier.networks.tensorflow_setup import keras, tf
from image_classifier.outputs.live import StageLog

CHECKPOINTS = Path(".dvc/tmp/checkpoints")
COPIES = Path(".dvc/tmp/exps")  # of the repository, in which DVC runs --temp and queued experiments
KEPT_SECONDS = 30 * 24 * 3600  # after which an interrupted training is deleted


class BestEpoch(keras.callbacks.Callback):
    """Keep the weights of the best epoch, and stop early.

    The best epoch has the highest validation accuracy and, of several such epochs, the lowest
    validation loss. Keras' `EarlyStopping` would keep the first of them: if there are few
    validation images, that is often an early one with less reliable probabilities. Like it, this
    stops after `patience` epochs without a better accuracy.
    """

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.number = 0  # of the best epoch, from 0
        self.weights: list[np.ndarray] = []
        self._score = (-math.inf, -math.inf)
        self._improved = 0  # the number of the first epoch with the best accuracy

    def resume(self, epoch_logs: list[dict[str, float]], weights: list[np.ndarray]) -> None:
        """Continue after epochs with these metrics, the best of which had these weights."""
        scores = [_score(logs) for logs in epoch_logs]
        self._score, self.weights = max(scores), weights
        self.number = scores.index(self._score)
        self._improved = [accuracy for accuracy, _ in scores].index(self._score[0])

    def is_over(self, epochs: int) -> bool:
        """Whether a training stops early after this number of epochs."""
        return epochs - 1 - self._improved >= self.patience

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        score = _score(logs)
        if score[0] > self._score[0]:
            self._improved = epoch
        if score > self._score:
            self._score, self.number = score, epoch
            self.weights = self.model.get_weights()
        if self.is_over(epoch + 1):
            self.model.stop_training = True

    def on_train_end(self, logs: dict | None = None) -> None:
        self.model.set_weights(self.weights)


class Checkpoint(keras.callbacks.Callback):
    """Save the state of a training after each epoch, and begin with a saved state.

    Put it after the logging callbacks.
    """

    def __init__(self, identity: str | None, patience: int, live: StageLog, system: Live) -> None:
        """
        Args:
            identity: a hash of everything the training depends on: only the same training resumes.
                None: save nothing.
            patience: number of epochs without a better accuracy that end the training.
            live, system: the logs that other callbacks write. After an interruption, the metrics
                and images of the finished epochs are logged again, but not the machine's use.
        """
        super().__init__()
        self.identity = identity
        self.best_epoch = BestEpoch(patience)
        """The callback that keeps the best weights and stops early; put it before this one."""
        self.epoch_logs: list[dict[str, float]] = []
        """Keras' metrics of each finished epoch, including those before an interruption."""
        self._live = live
        self._loggers = (live, system)
        self._logged: list[list[dict[str, float]]] = []  # per epoch, per logger
        self._folder: Path | None = None
        if identity:
            kept = _main_repository() / CHECKPOINTS
            _remove_forgotten(kept)
            versions = f"tensorflow-{tf.version.VERSION}-keras-{keras.version()}"
            self._folder = kept / f"{identity}-{versions}"
            self._read()

    @property
    def best(self) -> int:
        """The number of the best epoch, from 0; at the end the network has its weights."""
        return self.best_epoch.number

    def next_epoch(self, epochs: int) -> int:
        """The number of the epoch to begin with, from 0; `epochs` if the training has ended."""
        finished = len(self.epoch_logs)
        return epochs if self.best_epoch.is_over(finished) else finished

    def remove(self) -> None:
        """Delete the saved state once the training is complete."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self.epoch_logs:
            return
        finished, epochs = len(self.epoch_logs), self.params["epochs"]
        print(f"resuming the interrupted training after epoch {finished} of {epochs}")
        # Otherwise some of its variables appear only at the first step.
        self.model.optimizer.build(self.model.trainable_variables)
        for variable, value in zip(state_variables(self.model), self._values, strict=True):
            variable.assign(value)
        images = self._folder / "images"
        for path in images.rglob("*.*"):
            self._live.log_image_file(path.relative_to(images).as_posix(), path)
        for epoch, logged in enumerate(self._logged, start=1):
            for live, metrics in zip(self._loggers, logged, strict=True):
                live.step = epoch
                for name, value in metrics.items():
                    live.log_metric(name, value)
        for live in self._loggers:
            live.make_summary()
            live.step += 1

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch_logs.append({name: float(value) for name, value in logs.items()})
        if not self._folder:
            return
        self._logged.append([dict(_metrics(live.summary)) for live in self._loggers])
        history = [self.epoch_logs, self._logged]
        best_weights = self.best_epoch.weights
        arrays = {f"best_{number}": weight for number, weight in enumerate(best_weights)}
        arrays |= {
            f"value_{number}": variable.numpy()
            for number, variable in enumerate(state_variables(self.model))
        }
        images = Path(self._live.plots_dir, "images")

        self._folder.mkdir(parents=True, exist_ok=True)
        size = sum(array.nbytes for array in arrays.values())
        # Another process may run the same training. Its files are the same, and it deletes them
        # when it is finished.
        with suppress(FileNotFoundError), enough_space(self._folder / "state.npz", size):
            for name in self._live.logged_images():
                image, copy = images / name, self._folder / "images" / name
                if not copy.exists() or copy.stat().st_size != image.stat().st_size:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(image, copy)
            unfinished = self._folder / f"{os.getpid()}.unfinished"
            with unfinished.open("wb") as file:
                np.savez(file, history=np.array(json.dumps(history)), **arrays)
            unfinished.replace(self._folder / "state.npz")

    def _read(self) -> None:
        try:
            with np.load(self._folder / "state.npz") as state:
                history = json.loads(state["history"].item())
                best_weights = [state[name] for name in state if name.startswith("best_")]
                self._values = [state[name] for name in state if name.startswith("value_")]
            self.epoch_logs, self._logged = history
            self.best_epoch.resume(self.epoch_logs, best_weights)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # none was saved, or a power cut damaged it: start from the first epoch


def _score(logs: dict[str, float]) -> tuple[float, float]:
    return float(logs["val_accuracy"]), -float(logs["val_loss"])


def state_variables(network: keras.Model) -> list[keras.Variable]:
    """Everything that training changes: weights, random number generators, optimizer state."""
    of_metrics = {id(variable) for variable in network.metrics_variables}
    own = [variable for variable in network.variables if id(variable) not in of_metrics]
    return own + list(network.optimizer.variables)


def _metrics(summary: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Name, such as "eval/loss", and value of each metric that is plotted per epoch."""
    for name, value in summary.items():
        if isinstance(value, dict):
            if name not in ("system", "best"):
                yield from _metrics(value, f"{prefix}{name}/")
        elif name != "step":
            yield f"{prefix}{name}", value


def _main_repository() -> Path:
    """This repository, or the original if this is a copy made for one experiment."""
    here = Path.cwd()
    return next((top for top in here.parents if here.is_relative_to(top / COPIES)), here)


def _remove_forgotten(folder: Path) -> None:
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process deletes them too
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
