"""Which epoch is the best one, and when a training stops early."""

import numpy as np
import pytest

from image_classifier.networks.tensorflow_setup import keras
from image_classifier.training.checkpoint import BestEpoch

# Validation accuracy and loss: the third epoch is the best of the first five.
EPOCHS = [(0.5, 0.9), (0.8, 0.7), (0.8, 0.6), (0.8, 0.6), (0.7, 0.5), (0.9, 0.8)]
LOGS = [{"val_accuracy": accuracy, "val_loss": loss} for accuracy, loss in EPOCHS]


@pytest.mark.parametrize("resumed_after", [0, 3, 4])
@pytest.mark.parametrize(
    ("patience", "best", "epochs"), [(6, 5, 6), (4, 5, 6), (3, 2, 5)], ids=lambda value: str(value)
)
def test_the_best_epoch_is_kept(patience: int, best: int, epochs: int, resumed_after: int):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.stop_training = False
    callback = BestEpoch(patience)
    callback.set_model(network)
    if resumed_after:
        callback.resume(LOGS[:resumed_after], [np.array([[2.0]])])
    for epoch in range(resumed_after, len(EPOCHS)):
        network.set_weights([np.array([[float(epoch)]])])
        callback.on_epoch_end(epoch, LOGS[epoch])
        if network.stop_training:
            break
    assert callback.is_over(epoch + 1) == network.stop_training
    callback.on_train_end()
    assert (callback.number, epoch + 1) == (best, epochs)
    assert network.get_weights()[0] == best
