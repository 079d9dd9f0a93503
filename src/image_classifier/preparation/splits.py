"""Assign images to the training, validation and test splits."""

from collections import Counter
from collections.abc import Sequence

from image_classifier.common.errors import InputError
from image_classifier.common.raw_data import RawImage
from image_classifier.computing.corrections import Correction
from image_classifier.computing.prepared import (
    CONTRADICTION,
    DUPLICATE,
    EXCLUDED,
    SPLITS,
    UNREADABLE,
    ImageRecord,
    records_of,
)


def split_images(
    images: Sequence[RawImage],
    hashes: Sequence[str | None],
    validation_fraction: float,
    test_fraction: float,
    corrections: Sequence[Correction] = (),
) -> list[ImageRecord]:
    """Assign each image to a split; returns records sorted by path.

    Splits of the dataset are kept. A missing split is taken from another one, by a hash of each
    image's content: adding images never moves existing ones, and duplicates stay in one split. The
    validation split is `validation_fraction` of the training images. The test split is
    `test_fraction` of the validation images or, if the dataset has no validation split either, of
    all images. If the dataset has an image in several of its splits, only the copies in the most
    held-out split are used. An image found in several classes is left out, unless a correction
    gives all its copies one class. Corrections change no split.

    Args:
        images: all images of the dataset.
        hashes: sha256 of each image in hexadecimal; None if it cannot be decoded.
        validation_fraction, test_fraction: above 0, below 1.
        corrections: applied to all images with their content.

    Raises:
        InputError: if a class has no image to train on, or a split has no image at all.
    """
    own_splits = {image.split for image in images}
    corrected = {correction.sha256: correction.class_name for correction in corrections}
    records = []
    most_held_out: dict[str, int] = {}
    classes: dict[str, str | None] = {}  # None: more than one
    for image, sha256 in zip(images, hashes, strict=True):
        if not sha256:
            records.append(ImageRecord(image.path, image.class_name, UNREADABLE, ""))
            continue
        class_name = corrected.get(sha256, image.class_name)
        if not class_name:
            records.append(ImageRecord(image.path, image.class_name, EXCLUDED, sha256))
            continue
        split = _assign(image.split, own_splits, sha256, validation_fraction, test_fraction)
        records.append(ImageRecord(image.path, class_name, split, sha256))
        most_held_out[sha256] = max(most_held_out.get(sha256, 0), SPLITS.index(split))
        if classes.setdefault(sha256, class_name) != class_name:
            classes[sha256] = None

    for number, (_, _, split, sha256) in enumerate(records):
        if split not in SPLITS:
            continue
        if classes[sha256] is None:
            records[number] = records[number]._replace(split=CONTRADICTION)
        elif SPLITS.index(split) < most_held_out[sha256]:
            records[number] = records[number]._replace(split=DUPLICATE)
    records.sort()
    _check(records, sorted({image.class_name for image in images}))
    return records


def _assign(
    split: str, own_splits: set[str], sha256: str, validation_fraction: float, test_fraction: float
) -> str:
    """The split of an image whose split in the dataset is `split` ("" if it has no splits)."""
    position = int(sha256[:16], 16) / 16**16  # uniform in [0, 1), independent of the path
    if "test" in own_splits:
        test_fraction = 0
    if split == "validation":
        return "test" if position < test_fraction else "validation"
    if split in ("train", "") and "validation" not in own_splits:
        if position < test_fraction:
            return "test"
        return "validation" if position < test_fraction + validation_fraction else "train"
    return split


def _check(records: Sequence[ImageRecord], class_names: Sequence[str]) -> None:
    counts = Counter((record.split, record.class_name) for record in records)
    for class_name in class_names:
        if not counts["train", class_name]:
            raise InputError(
                f"prepare: class {class_name!r} has no image to train on "
                f"({sum(n for (_, name), n in counts.items() if name == class_name)} in all); "
                "add some, or lower prepare.validation_fraction and prepare.test_fraction"
            )
    for split in SPLITS:
        if not records_of(records, split):
            raise InputError(
                f"prepare: no image of {len(records)} fell into the {split} split; "
                f"add some, or raise prepare.{split}_fraction"
            )
