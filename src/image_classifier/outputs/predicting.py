"""Compute a model's probabilities for prepared images."""

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.outputs.batches import Views, ordered_batches

PREDICTION_BATCH_SIZE = 64
FEATURES_AT_ONCE = 4096


def check_shape(views: Views, network: keras.Model) -> None:
    """Check that prepared images, (views, n, ...), have the shape that a network takes.

    Raises:
        InputError: if they do not, because parameters have changed since they were prepared.
    """
    found, expected = views.shape[2:], network.input_shape[1:]
    if found != expected:
        raise InputError(
            f"data/prepared: found arrays of shape {found} per image, but the network takes "
            f"{expected}; run `dvc exp run` to make them match"
        )


def predict_probabilities(model: keras.Model, views: Views) -> np.ndarray:
    """A model's probabilities for prepared images, float32 (n, class_count).

    `views` are pixels, uint8 (1, n, image_size, image_size, channels), or features, float32
    (1, n, d); for features the backbone is not run.

    Raises:
        InputError: if the prepared images do not have the shape that the model takes.
    """
    if views.ndim == 3:
        classifier = model.get_layer("classifier")
        check_shape(views, classifier)
        # Called without compiling: compiling so few operations takes longer than running them.
        rows = range(0, views.shape[1], FEATURES_AT_ONCE)
        logits = [classifier(views[0, row : row + FEATURES_AT_ONCE]) for row in rows]
        return keras.ops.softmax(keras.ops.concatenate(logits)).numpy()
    check_shape(views, model)
    unused_labels = np.zeros(views.shape[1], np.int64)
    return model.predict(ordered_batches(views, unused_labels, PREDICTION_BATCH_SIZE), verbose=0)
