"""Which picture is for training, for validation and for the test, and the table that records it."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from image_classifier.errors import InputError
from image_classifier.raw_data import Picture

SPLITS = ("train", "validation", "test")
DUPLICATE = "duplicate"
CONTRADICTION = "contradiction"
UNREADABLE = "unreadable"


class ImageRecord(NamedTuple):
    """A row of the table of all images."""

    path: str  # as `raw_data.Picture.path`
    class_name: str
    # One of SPLITS, or left out: a DUPLICATE has a twin in a split that is held out, a
    # CONTRADICTION a twin in another class, and an UNREADABLE one cannot be decoded.
    split: str
    sha256: str  # of the file's bytes; "" of an UNREADABLE one


def split_images(
    pictures: Sequence[Picture],
    hashes: Sequence[str | None],
    validation_fraction: float,
    test_fraction: float,
) -> list[ImageRecord]:
    """Assign each picture to a split.

    A split that the dataset has of its own stays as it is. A missing one is taken out of another
    by each picture's own hash, so that adding pictures never moves one, and copies stay together:
    the validation split out of the training pictures (`validation_fraction` of them), the test
    split out of the validation pictures (`test_fraction` of them) or, where the dataset has none
    of these either, out of all. Of a picture that stands in several splits of the dataset's own,
    only the copies in the most held-out one are used; of one that stands in several classes, none.

    Args:
        pictures: of the whole dataset.
        hashes: the sha256 of each, in hexadecimal; None for those that cannot be decoded.
        validation_fraction: above 0, below 1.
        test_fraction: above 0, below 1.

    Returns:
        Records sorted by path.

    Raises:
        InputError: if a class has no picture to train on, or a split has no picture at all.
    """
    readable = [
        (picture, sha256) for picture, sha256 in zip(pictures, hashes, strict=True) if sha256
    ]
    own_splits = {picture.split for picture in pictures}
    splits = [
        _assign(picture.split, own_splits, sha256, validation_fraction, test_fraction)
        for picture, sha256 in readable
    ]
    most_held_out: dict[str, int] = {}
    classes: dict[str, str | None] = {}  # None: more than one
    for split, (picture, sha256) in zip(splits, readable, strict=True):
        most_held_out[sha256] = max(most_held_out.get(sha256, 0), SPLITS.index(split))
        if classes.setdefault(sha256, picture.class_name) != picture.class_name:
            classes[sha256] = None

    def used(split: str, sha256: str) -> str:
        if classes[sha256] is None:
            return CONTRADICTION
        return split if SPLITS.index(split) == most_held_out[sha256] else DUPLICATE

    records = [
        ImageRecord(picture.path, picture.class_name, used(split, sha256), sha256)
        for split, (picture, sha256) in zip(splits, readable, strict=True)
    ]
    records += [
        ImageRecord(picture.path, picture.class_name, UNREADABLE, "")
        for picture, sha256 in zip(pictures, hashes, strict=True)
        if not sha256
    ]
    records.sort()
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
