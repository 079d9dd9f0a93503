"""Time an epoch, for the benchmarks of training."""

import time
from statistics import median

from image_classifier.networks.tensorflow_setup import keras, tf


class Stopwatch(keras.callbacks.Callback):
    """Record the seconds of each epoch except the first, which traces and fills caches."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if epoch:
            self.seconds.append(time.perf_counter() - self.start)


def epoch_seconds(network: keras.Model, data: tf.data.Dataset, epochs: int) -> float:
    """Fit, and return the median seconds of the epochs after the first."""
    stopwatch = Stopwatch()
    network.fit(data, epochs=epochs, shuffle=False, callbacks=[stopwatch], verbose=0)
    return median(stopwatch.seconds)
