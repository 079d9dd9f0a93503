"""What `src/download.py` leaves in data/raw: images in class folders, or where they are.

<class>/..., or <split>/<class>/...    the images
images.csv                           instead of them: url, class, split, version
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from image_classifier.common.class_folders import find_class_folders, find_files
from image_classifier.common.remote import LISTING, is_remote, read_listing

RAW_DATA = Path("data/raw")


class RawImage(NamedTuple):
    """An image as it stands in the dataset."""

    path: str  # relative to the dataset's folder, with forward slashes; or a URL
    split: str  # "train", "validation", "test", or "" where the dataset is not split
    class_name: str


def find_images(root: Path) -> list[RawImage]:
    """All images of the dataset in the folder `root`.

    Raises:
        InputError: if it holds no dataset.
    """
    if (root / LISTING).exists():
        return [RawImage(row.url, row.split, row.class_name) for row in read_listing(root)]
    # Paths as text: as objects they would be most of this process's memory.
    return [
        RawImage(file.relative_to(root).as_posix(), split, class_name)
        for (split, class_name), folder in find_class_folders(root).items()
        for file in find_files(folder)
    ]


def locate(root: Path, path: str) -> str:
    """Where to read an image, by its path in the dataset in the folder `root`."""
    return path if is_remote(path) else f"{root}/{path}"


def write_unreadable(rows: Iterable[tuple[str, str]], path: Path) -> None:
    """Write path and reason of the images that cannot be decoded as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *rows])
