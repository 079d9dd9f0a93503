"""Write and read data/prepared, the output of `src/prepare.py`.

    images.csv                             all images: path, class, split, sha256
    train-00000.npy, train-00001.npy, ...  features or pixels; likewise for validation and test
    unreadable.csv                         images in a bucket or at a URL that cannot be decoded
    corrections.csv                        the corrections of labels that were applied, if any

The array of a split has the shape (views, n, ...): n images in the table's order, with `views`
copies of each training image and one of each validation or test image. Features are float32
(views, n, d), pixels uint8 (1, n, image_size, image_size, channels). The array is split along n
into files of about 1 GiB, in the same way whichever engine computed it.
"""

import csv
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classifier.common.disk import enough_space
from image_classifier.common.errors import InputError
from image_classifier.common.raw_data import RAW_DATA, locate
from image_classifier.common.remote import RemoteFile, is_remote

PREPARED = Path("data/prepared")
TABLE = PREPARED / "images.csv"
SHARD_BYTES = 2**30
SPLITS = ("train", "validation", "test")
DUPLICATE = "duplicate"
CONTRADICTION = "contradiction"
UNREADABLE = "unreadable"
EXCLUDED = "excluded"


class ImageRecord(NamedTuple):
    """A row of the table of all images."""

    path: str  # as in `raw_data.RawImage.path`
    class_name: str  # as corrected
    # One of SPLITS, or the reason for leaving the image out: DUPLICATE (same content as an image
    # held out for validation or test), CONTRADICTION (same content as an image of another class),
    # UNREADABLE (cannot be decoded), or EXCLUDED (by a correction).
    split: str
    sha256: str  # of the file's bytes; "" if UNREADABLE


class Shards:
    """The array of a split, stored in several files along its second axis and read as one."""

    def __init__(self, folder: Path, split: str, count: int) -> None:
        """Open the files of a split of `count` images.

        Raises:
            InputError: naming the file, if a file is missing or damaged.
        """
        first = _open_shard(folder, split, 0)
        self._rows = first.shape[1]  # per shard, except the last
        further = range(1, -(-count // max(1, self._rows)))
        self._shards = [first, *(_open_shard(folder, split, number) for number in further)]
        found = sum(shard.shape[1] for shard in self._shards)
        if found != count:
            raise InputError(
                f"{shard_path(folder, split, 0)}: found {found:,} images in this and the following "
                f"files, but {count:,} in {TABLE.name}; `dvc exp run` or src/prepare.py makes both"
            )
        self.shape = (len(first), count, *first.shape[2:])
        self.dtype = first.dtype
        self.ndim = first.ndim
        self.nbytes = sum(shard.nbytes for shard in self._shards)

    def __len__(self) -> int:
        return len(self._shards[0])

    def __getitem__(self, key: tuple[int, int | slice | np.ndarray]) -> np.ndarray:
        """Images of one view, selected by a row number, a slice, or an array of row numbers."""
        view, rows = key
        if len(self._shards) == 1:
            return self._map(0)[view, rows]
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[1]))
        shards, places = np.divmod(np.atleast_1d(rows), self._rows)
        values = np.empty((len(places), *self.shape[2:]), self.dtype)
        for shard in np.unique(shards):
            chosen = shards == shard
            values[chosen] = self._map(shard)[view, places[chosen]]
        return values if np.ndim(rows) else values[0]

    def _map(self, shard: int) -> np.ndarray:
        """Re-map the file on every read: pages count towards this process's memory until their map
        is closed."""
        known = self._shards[shard]
        return np.memmap(known.filename, known.dtype, "r", known.offset, known.shape)


class PreparedSplit(NamedTuple):
    """A split: its rows of the table, with their labels and array."""

    records: list[ImageRecord]
    labels: np.ndarray  # int64 (n,): positions in the sorted class names
    views: Shards  # (views, n, ...): read from disk on access


def open_splits(*names: str) -> tuple[list[str], list[PreparedSplit]]:
    """Open splits, any of "train", "validation" and "test".

    Returns:
        The class names in the order of the model's outputs, and the splits in the order of `names`.

    Raises:
        InputError: if a split has not been prepared.
    """
    table = read_table(TABLE)
    class_names = class_names_of(table)
    positions = {name: position for position, name in enumerate(class_names)}
    splits = []
    for name in names:
        records = records_of(table, name)
        labels = np.array([positions[record.class_name] for record in records])
        splits.append(PreparedSplit(records, labels, Shards(PREPARED, name, len(records))))
    return class_names, splits


def check_shape(views: Shards | np.ndarray, expected: tuple[int, ...]) -> None:
    """Check that prepared images, (views, n, ...), have the shape that a network takes.

    Raises:
        InputError: if they do not, because parameters have changed since they were prepared.
    """
    if (found := views.shape[2:]) != expected:
        raise InputError(
            f"data/prepared: found arrays of shape {found} per image, but the network takes "
            f"{expected}; run `dvc exp run` to make them match"
        )


def write_table(records: Sequence[ImageRecord], path: Path) -> None:
    """Write the table of all images as CSV: path, class, split, sha256."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("path", "class", "split", "sha256"), *records])


def read_table(path: Path) -> list[ImageRecord]:
    """Read the table of all images.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [ImageRecord(*row) for row in list(csv.reader(file))[1:]]
    except FileNotFoundError:
        raise InputError(f"{path} not found; `dvc exp run` or src/prepare.py creates it") from None
    except (csv.Error, TypeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); `dvc exp run` or src/prepare.py creates it again"
        ) from None


def class_names_of(records: Sequence[ImageRecord]) -> list[str]:
    """The class names, sorted; a class's label is its position in this list."""
    return sorted({record.class_name for record in records})


def records_of(records: Sequence[ImageRecord], split: str) -> list[ImageRecord]:
    """The records of a split in the table's order, which is also the order of its array's rows."""
    return [record for record in records if record.split == split]


def locate_image(record: ImageRecord) -> str | RemoteFile:
    """The path of an image's file; or its URL, with its hash, as it could change."""
    if is_remote(record.path):
        return RemoteFile(record.path, record.sha256)
    return locate(RAW_DATA, record.path)


def create_array(
    folder: Path, split: str, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[int, np.ndarray], None]:
    """Create the array of a split as files in `folder`.

    Returns:
        A function that writes n images, given the number of the first one and an array
        (views, n, ...).

    Raises:
        InputError: if the disk has too little space.
    """
    views, count, *rest = shape
    size = math.prod((views, *rest)) * np.dtype(dtype).itemsize
    rows = max(1, SHARD_BYTES // size)
    paths = [shard_path(folder, split, number) for number in range(-(-count // rows))]
    with enough_space(paths[0], count * size):
        for number, path in enumerate(paths):
            shape = (views, min(rows, count - number * rows), *rest)
            np.lib.format.open_memmap(path, "w+", dtype, shape)
            # Without this, writing to a memory map crashes the process when the disk is full.
            if hasattr(os, "posix_fallocate"):
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def write(first: int, values: np.ndarray) -> None:
        while values.shape[1]:
            shard, place = divmod(first, rows)
            part = values[:, : rows - place]
            # Re-mapped for every write: written pages count towards this process's memory.
            np.load(paths[shard], mmap_mode="r+")[:, place : place + part.shape[1]] = part
            first, values = first + part.shape[1], values[:, rows - place :]

    return write


def shard_path(folder: Path, split: str, number: int) -> Path:
    """The path of one file of a split's array."""
    return folder / f"{split}-{number:05}.npy"


def _open_shard(folder: Path, split: str, number: int) -> np.memmap:
    path = shard_path(folder, split, number)
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: {error}; `dvc exp run` or src/prepare.py creates it") from None
