"""A model's probabilities of prepared images."""

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.outputs.batches import Views, ordered_batches

PREDICTION_BATCH_SIZE = 64
FEATURES_AT_ONCE = 4096


def check_shape(views: Views, network: keras.Model) -> None:
    """Make sure that prepared images, (views, n, ...), are what a network takes.

    Raises:
        InputError: if they are not, because something has changed since they were prepared.
    """
    found, expected = views.shape[2:], network.input_shape[1:]
    if found != expected:
        raise InputError(
            f"data/prepared: found arrays of {found} per image, the network takes {expected}; "
            "`dvc exp run` makes both to fit"
        )


def predict_probabilities(model: keras.Model, views: Views) -> np.ndarray:
    """What a model makes of prepared images: probabilities, float32 (n, class_count).

    `views` are pixels, uint8 (1, n, image_size, image_size, channels), or features, float32
    (1, n, d), for which the backbone is not run.

    Raises:
        InputError: if the model does not take what is prepared.
    """
    if views.ndim == 3:
        classifier = model.get_layer("classifier")
        check_shape(views, classifier)
        # Called as it is: to compile so few operations takes longer than to run them.
        rows = range(0, views.shape[1], FEATURES_AT_ONCE)
        logits = [classifier(views[0, row : row + FEATURES_AT_ONCE]) for row in rows]
        return keras.ops.softmax(keras.ops.concatenate(logits)).numpy()
    check_shape(views, model)
    unused_labels = np.zeros(views.shape[1], np.int64)
    return model.predict(ordered_batches(views, unused_labels, PREDICTION_BATCH_SIZE), verbose=0)
