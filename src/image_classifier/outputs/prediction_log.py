"""What training and evaluation both log of a model's predictions."""

from collections.abc import Sequence

import numpy as np
from dvclive import Live

from image_classifier.common.raw_data import RAW_DATA
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.outputs.sheets import load_images, prediction_sheet


def log_confusion_matrix(
    live: Live, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> None:
    """Log true and predicted class of each image.

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
) -> None:
    """Log a sheet of some `rows` of a split; none at all gives a sheet with the title.

    `probabilities`, float32 (n, class_count), are those of the whole split.

    Raises:
        InputError: naming the file, if an image cannot be decoded.
    """
    records = [split.records[row] for row in rows]
    images, true_names = load_images(RAW_DATA, records), [record.class_name for record in records]
    sheet = prediction_sheet(images, true_names, probabilities[rows], class_names, title)
    live.log_image(name, sheet)
