"""What `src/prepare.py` leaves in data/prepared, and how the later stages read it.

    images.csv                             every picture: path, class, split, sha256
    train.npy, validation.npy, test.npy    its features or its pixels

An array has the shape (views, n, ...): n pictures in the table's order, each as `views` copies;
validation and test pictures as one. Features are float32 (views, n, d), pixels uint8
(1, n, image_size, image_size, channels).
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classifier.disk import enough_space
from image_classifier.errors import InputError
from image_classifier.splits import ImageRecord, class_names_of, read_table, records_of

FOLDER = Path("data/prepared")
TABLE = FOLDER / "images.csv"


class PreparedSplit(NamedTuple):
    """One split: its rows of the table, their labels, and their array."""

    records: list[ImageRecord]
    labels: np.ndarray  # int64 (n,): positions in the sorted class names
    views: np.ndarray  # (views, n, ...), mapped into memory: read from disk as far as it is used


def open_splits(*names: str) -> tuple[list[str], list[PreparedSplit]]:
    """Open splits, any of "train", "validation" and "test".

    Returns:
        The classes' names, in the order of the model's outputs, and the splits in the order asked.

    Raises:
        InputError: if one has not been prepared.
    """
    table = read_table(TABLE)
    class_names = class_names_of(table)
    positions = {name: position for position, name in enumerate(class_names)}
    splits = []
    for name in names:
        records = records_of(table, name)
        labels = np.array([positions[record.class_name] for record in records])
        path = array_path(FOLDER, name)
        try:
            splits.append(PreparedSplit(records, labels, np.load(path, mmap_mode="r")))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: {error}; `dvc exp run` makes it, or src/prepare.py"
            ) from None
    return class_names, splits


def create_array(
    folder: Path, split: str, shape: tuple[int, ...], dtype: type[np.generic]
) -> Callable[[int, slice, np.ndarray], None]:
    """Create the array of a split as a file below `folder`.

    Returns:
        A function that writes rows: the number of their view, their place, and what they hold.

    Raises:
        InputError: if there is no room for it on the disk.
    """
    path = array_path(folder, split)
    with enough_space(path, math.prod(shape) * np.dtype(dtype).itemsize):
        np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # or to write into a map would crash on a full disk
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def write(view: int, rows: slice, values: np.ndarray) -> None:
        # Mapped anew each time, or all that was written would count as this process's memory.
        np.load(path, mmap_mode="r+")[view, rows] = values

    return write


def array_path(folder: Path, split: str) -> Path:
    """The file that holds the array of a split."""
    return folder / f"{split}.npy"
