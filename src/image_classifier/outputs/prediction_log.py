"""Logging of a model's predictions, shared by training and evaluation."""

from collections.abc import Sequence

import numpy as np
from dvclive import Live

from image_classifier.common.raw_data import RAW_DATA
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.outputs.sheets import load_images, prediction_sheet


def log_confusion_matrix(
    live: Live, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> None:
    """Log the true and the predicted class of each image.

    `labels` are int64 (n,), `probabilities` float32 (n, class_count).
    """
    live.log_sklearn_plot(
        "confusion_matrix",
        [class_names[label] for label in labels],
        [class_names[label] for label in probabilities.argmax(axis=1)],
    )


def log_prediction_sheet(
    live: Live,
    name: str,
    split: PreparedSplit,
    rows: Sequence[int],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    places: int = 0,
) -> None:
    """Log a sheet of some `rows` of a split, with room for `places` images of the split.

    `probabilities` are float32 (n, class_count), for the whole split.

    Raises:
        InputError: if an image cannot be decoded; names the file.
    """
    records = [split.records[row] for row in rows]
    images, true_names = load_images(RAW_DATA, records), [record.class_name for record in records]
    places = min(places, len(split.records))
    sheet = prediction_sheet(images, true_names, probabilities[rows], class_names, title, places)
    live.log_image(name, sheet)
