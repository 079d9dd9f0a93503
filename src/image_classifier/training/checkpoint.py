"""Where a training that was interrupted goes on: after its last finished epoch.

Keras' `BackupAndRestore` keeps the network and the optimizer alone. This keeps as well which epoch
was the best, and what has been logged, so that in the end nothing tells that there was a break.
"""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from dvclive import Live

from image_classifier.common.disk import enough_space
from image_classifier.computing.tensorflow_setup import keras, tf

CHECKPOINTS = Path(".dvc/tmp/checkpoints")
COPIES = Path(".dvc/tmp/exps")  # of the repository, for `dvc exp run --temp` and queued experiments
KEPT_SECONDS = 30 * 24 * 3600  # of a training that nobody has gone on with


class Checkpoint(keras.callbacks.Callback):
    """Keep the state of a training after each epoch, and begin with the one that was kept.

    Put it after the callbacks that log.
    """

    def __init__(self, identity: str | None, epochs: int, loggers: Sequence[Live]) -> None:
        """
        Args:
            identity: a hash of all that the training depends on; another one begins anew. None:
                nothing is kept.
            epochs: of the whole training.
            loggers: what other callbacks log to. The metrics and images of the finished epochs are
                logged again, but not what the machine was doing.
        """
        super().__init__()
        self.identity = identity
        self.best_epoch = keras.callbacks.EarlyStopping(
            "val_accuracy", mode="max", patience=epochs, restore_best_weights=True
        )
        """The callback that keeps the best weights; put it before this one."""
        self.epoch_logs: list[dict[str, float]] = []
        """Keras' metrics of each finished epoch, also of those before the interruption."""
        self._loggers = loggers
        self._logged: list[list[dict[str, float]]] = []  # of each epoch, for each logger
        self._folder: Path | None = None
        if identity:
            kept = _main_repository() / CHECKPOINTS
            _remove_forgotten(kept)
            versions = f"tensorflow-{tf.version.VERSION}-keras-{keras.version()}"
            self._folder = kept / f"{identity}-{versions}"
            self._read()

    @property
    def best(self) -> int:
        """The position of the best epoch, from 0: the one whose weights the network has."""
        return self.best_epoch.best_epoch

    def remove(self) -> None:
        """Forget the state: the training is complete."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self.epoch_logs:
            return
        print(f"going on after epoch {len(self.epoch_logs)}, where this training was interrupted")
        self.model.optimizer.build(self.model.trainable_variables)  # or some come with a first step
        for variable, value in zip(state_variables(self.model), self._values, strict=True):
            variable.assign(value)
        self.best_epoch.best, self.best_epoch.best_epoch = self._best
        self.best_epoch.best_weights = self._best_weights
        for path in _files(self._folder / "images"):
            target = path.relative_to(self._folder / "images")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
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
        best = self.best_epoch
        history = [self.epoch_logs, self._logged, [float(best.best), best.best_epoch]]
        arrays = {f"best_{number}": weight for number, weight in enumerate(best.best_weights)}
        arrays |= {
            f"value_{number}": variable.numpy()
            for number, variable in enumerate(state_variables(self.model))
        }
        images = [path for live in self._loggers for path in _files(Path(live.plots_dir, "images"))]

        self._folder.mkdir(parents=True, exist_ok=True)
        size = sum(array.nbytes for array in arrays.values())
        # Another process may be training the same. Whose files these are makes no difference, and
        # it removes them when it is finished.
        with suppress(FileNotFoundError), enough_space(self._folder / "state.npz", size):
            for path in images:
                copy = self._folder / "images" / path
                if not copy.exists() or copy.stat().st_size != path.stat().st_size:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
            unfinished = self._folder / f"{os.getpid()}.unfinished"
            with unfinished.open("wb") as file:
                np.savez(file, history=np.array(json.dumps(history)), **arrays)
            unfinished.replace(self._folder / "state.npz")

    def _read(self) -> None:
        try:
            with np.load(self._folder / "state.npz") as state:
                history = json.loads(state["history"].item())
                self._best_weights = [state[name] for name in state if name.startswith("best_")]
                self._values = [state[name] for name in state if name.startswith("value_")]
            self.epoch_logs, self._logged, self._best = history
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # there is none, or it was damaged as by a power cut: begin anew


def state_variables(network: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights, the state of random numbers, and the optimizer's."""
    of_metrics = {id(variable) for variable in network.metrics_variables}
    own = [variable for variable in network.variables if id(variable) not in of_metrics]
    return own + list(network.optimizer.variables)


def _metrics(summary: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Name, such as "eval/loss", and value of what is logged once in an epoch."""
    for name, value in summary.items():
        if isinstance(value, dict):
            if name != "system":
                yield from _metrics(value, f"{prefix}{name}/")
        elif name != "step":
            yield f"{prefix}{name}", value


def _main_repository() -> Path:
    """The repository, or the one that this is a copy of for a single experiment."""
    here = Path.cwd()
    return next((top for top in here.parents if here.is_relative_to(top / COPIES)), here)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _remove_forgotten(folder: Path) -> None:
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process does the same
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
