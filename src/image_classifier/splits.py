"""Which picture is for training, for validation and for the test, and the table that records it."""

import csv
from collections import Counter
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from image_classifier.class_folders import find_class_folders, find_files
from image_classifier.errors import InputError
from image_classifier.hashing import sha256_of

SPLITS = ("train", "validation", "test")
DUPLICATE = "duplicate"
CONTRADICTION = "contradiction"


class ImageRecord(NamedTuple):
    """A row of the table of all images."""

    path: str  # relative to the folder of the dataset, with forward slashes
    class_name: str
    # One of SPLITS, or left out: a DUPLICATE has a twin in a split that is held out, and a
    # CONTRADICTION a twin in another class.
    split: str
    sha256: str  # of the file's bytes


def split_images(root: Path, validation_fraction: float, test_fraction: float) -> list[ImageRecord]:
    """Assign each picture below `root` to a split.

    A split that the dataset has of its own stays as it is. A missing one is taken out of another
    by each picture's own hash, so that adding pictures never moves one, and copies stay together:
    the validation split out of the training pictures (`validation_fraction` of them), the test
    split out of the validation pictures (`test_fraction` of them) or, where the dataset has none
    of these either, out of all. Of a picture that stands in several splits of the dataset's own,
    only the copies in the most held-out one are used; of one that stands in several classes, none.

    Returns:
        Records sorted by path.

    Raises:
        InputError: if a class has no picture to train on, or a split has no picture at all.
    """
    # Paths as text: as objects they would be most of this process's memory.
    files = [
        (file.relative_to(root).as_posix(), split, class_name)
        for (split, class_name), folder in find_class_folders(root).items()
        for file in find_files(folder)
    ]
    with ThreadPool() as pool:
        hashing = pool.imap(lambda file: sha256_of(root / file[0]), files, chunksize=64)
        hashes = list(tqdm(hashing, "hashing pictures", len(files), unit="file"))

    own_splits = {split for _, split, _ in files}
    splits = [
        _assign(split, own_splits, sha256, validation_fraction, test_fraction)
        for (_, split, _), sha256 in zip(files, hashes, strict=True)
    ]
    most_held_out: dict[str, int] = {}
    classes: dict[str, str | None] = {}  # None: more than one
    for split, sha256, (_, _, class_name) in zip(splits, hashes, files, strict=True):
        most_held_out[sha256] = max(most_held_out.get(sha256, 0), SPLITS.index(split))
        if classes.setdefault(sha256, class_name) != class_name:
            classes[sha256] = None

    def used(split: str, sha256: str) -> str:
        if classes[sha256] is None:
            return CONTRADICTION
        return split if SPLITS.index(split) == most_held_out[sha256] else DUPLICATE

    records = sorted(
        ImageRecord(path, class_name, used(split, sha256), sha256)
        for (path, _, class_name), split, sha256 in zip(files, splits, hashes, strict=True)
    )
    _check(records)
    return records


def write_table(records: Sequence[ImageRecord], path: Path) -> None:
    """Write the table of all images as CSV: path, class, split, sha256."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("path", "class", "split", "sha256"), *records])


def read_table(path: Path) -> list[ImageRecord]:
    """Read the table of all images.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [ImageRecord(*row) for row in list(csv.reader(file))[1:]]
    except FileNotFoundError:
        raise InputError(f"{path} not found; `dvc exp run` makes it, or src/prepare.py") from None
    except (csv.Error, TypeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); `dvc exp run` makes it anew, or src/prepare.py"
        ) from None


def class_names_of(records: Sequence[ImageRecord]) -> list[str]:
    """The classes' names, sorted: a class's label is its position here."""
    return sorted({record.class_name for record in records})


def records_of(records: Sequence[ImageRecord], split: str) -> list[ImageRecord]:
    """The records of one split, in the table's order: the order of rows in the prepared arrays."""
    return [record for record in records if record.split == split]


def _assign(
    split: str, own_splits: set[str], sha256: str, validation_fraction: float, test_fraction: float
) -> str:
    """The split of a picture that stands in `split` of its dataset ("" if that has no splits)."""
    position = int(sha256[:16], 16) / 16**16  # uniform in [0, 1), the same wherever the picture is
    if "test" in own_splits:
        test_fraction = 0
    if split == "validation":
        return "test" if position < test_fraction else "validation"
    if split in ("train", "") and "validation" not in own_splits:
        if position < test_fraction:
            return "test"
        return "validation" if position < test_fraction + validation_fraction else "train"
    return split


def _check(records: Sequence[ImageRecord]) -> None:
    counts = Counter((record.split, record.class_name) for record in records)
    for class_name in class_names_of(records):
        if not counts["train", class_name]:
            raise InputError(
                f"prepare: class {class_name!r} has no picture to train on "
                f"({sum(n for (_, name), n in counts.items() if name == class_name)} in all); "
                "add some, or lower prepare.validation_fraction and prepare.test_fraction"
            )
    for split in SPLITS:
        if not records_of(records, split):
            raise InputError(
                f"prepare: no picture of {len(records)} fell into the {split} split; "
                f"add some, or raise prepare.{split}_fraction"
            )
