"""Sheets of pictures with what the network says of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from image_classifier.images import load_image
from image_classifier.splits import ImageRecord

COLUMNS = 6
PICTURE_SIZE = 160  # pixels
RIGHT, WRONG = "#1b7837", "#b2182b"


def worst_first(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Rows ordered by how far from right they are: mistakes first, the most confident at the top.

    Args:
        labels: int64 (n,).
        probabilities: float32 (n, class_count).

    Returns:
        int64 (n,): row numbers by the probability of the true class less that of the strongest
        other one, ascending.
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    return np.argsort(probabilities[rows, labels] - others.max(axis=1), kind="stable")


def prediction_sheet(
    root: Path,
    records: Sequence[ImageRecord],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draw pictures in rows, each with its true class, its predicted class and the confidence.

    Args:
        root: the folder that the records' paths are relative to.
        records: the pictures to draw, in this order; none at all gives a sheet with the title.
        probabilities: float32 (len(records), class_count).
        class_names: in the order of the model's outputs.
        title: a line above the pictures.
    """
    row_count = max(1, -(-len(records) // COLUMNS))
    figure = Figure(figsize=(COLUMNS * 1.9, 0.6 + row_count * 2.25), dpi=80, layout="constrained")
    figure.suptitle(title, fontsize=13)
    axes = list(figure.subplots(row_count, COLUMNS, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, record, outputs in zip(axes, records, probabilities, strict=False):
        predicted = class_names[outputs.argmax()]
        axis.imshow(load_image(root / record.path, PICTURE_SIZE, "rgb"))
        axis.set_title(
            f"{_short(predicted)} ({outputs.max():.1%})\ntrue: {_short(record.class_name)}",
            fontsize=9,
            color=RIGHT if predicted == record.class_name else WRONG,
            parse_math=False,  # a class may have dollar signs in its name
        )
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
