"""Read data/raw, the output of `src/download.py`: images in class folders, or a list of URLs.

<class>/..., or <split>/<class>/...    the images
images.csv                             a list instead of images: url, class, split, version
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from image_classifier.common.class_folders import find_class_folders, find_files
from image_classifier.common.remote import LISTING, is_remote, read_listing

RAW_DATA = Path("data/raw")


class RawImage(NamedTuple):
    """An image of the dataset."""

    path: str  # relative to the dataset's folder, with forward slashes; or a URL
    split: str  # "train", "validation", "test", or "" if the dataset is not split
    class_name: str


def find_images(root: Path) -> list[RawImage]:
    """All images of the dataset in the folder `root`.

    Raises:
        InputError: if the folder contains no valid dataset.
    """
    if (root / LISTING).exists():
        return [RawImage(row.url, row.split, row.class_name) for row in read_listing(root)]
    # Paths as text: Path objects would take most of this process's memory.
    return [
        RawImage(file.relative_to(root).as_posix(), split, class_name)
        for (split, class_name), folder in find_class_folders(root).items()
        for file in find_files(folder)
    ]


def locate(root: Path, path: str) -> str:
    """The path or URL of an image, from its path in the dataset folder `root`."""
    return path if is_remote(path) else f"{root}/{path}"


def write_unreadable(rows: Iterable[tuple[str, str]], path: Path) -> None:
    """Write the paths of undecodable images and the reasons as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *rows])
