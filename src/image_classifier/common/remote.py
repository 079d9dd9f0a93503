"""Read images from buckets and URLs through fsspec, one at a time, without storing them on disk."""

import csv
import hashlib
import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from image_classifier.common.class_folders import (
    SPLIT_NAMES,
    check_classes,
    describe_left_out,
    find_class_folders,
)
from image_classifier.common.errors import InputError

LISTING = "images.csv"  # in data/raw, instead of images
ATTEMPTS = 5
FIRST_WAIT = 1  # seconds; doubled after each failed attempt
GONE = (401, 403, 404, 410)  # HTTP status codes for which a retry is useless


class RemoteImage(NamedTuple):
    """A row of the listing."""

    url: str
    class_name: str
    split: str  # "train", "validation", "test", or "" if the images are not split
    version: str  # changes when the image changes; "" if the server does not report it


class RemoteFile(NamedTuple):
    """An image at a URL whose hash is known."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return self.url

    def read(self) -> bytes:
        """Like the function `read`, and raise an `InputError` if the image has changed."""
        content = read(self.url)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(f"{self.url}: changed since it was first read; run the command again")
        return content


def is_remote(location: str) -> bool:
    """Whether a location is read through fsspec: it has a protocol, such as s3://bucket/folder."""
    return "://" in location


def read(url: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError, PermissionError: if the file is permanently unavailable.
        InputError: if it could not be read in `ATTEMPTS` attempts.
    """
    filesystem, path = _open_filesystem(url)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
        try:
            return filesystem.cat_file(path)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # fsspec's backends raise errors of their own
            reason = _reason(error)
            if getattr(error, "status", None) in GONE:
                raise FileNotFoundError(reason) from None
    raise InputError(f"{url}: {reason}, after {ATTEMPTS} attempts")


def list_images(source: str) -> list[RemoteImage]:
    """List the images of a dataset, sorted by URL, and print which ones of a bucket are left out.

    `source` is a folder in a bucket with class folders as in `class_folders`, or a local or remote
    CSV file with the columns url, class and optionally split.

    Raises:
        InputError: if it cannot be read, or `check_classes` finds an error.
    """
    try:
        images = sorted(_in_list(source) if source.endswith(".csv") else _in_bucket(source))
        check_classes({(image.split, image.class_name) for image in images}, source)
    except InputError as error:
        raise InputError(f"download.source: {error}") from None
    except FileNotFoundError:
        raise InputError(
            f"download.source: {source} not found; allowed: a folder of class folders, or a CSV "
            "file with a list of URLs"
        ) from None
    except Exception as error:  # fsspec's backends raise errors of their own
        raise InputError(f"download.source: {source}: {_reason(error)}") from None
    return images


def write_listing(images: Iterable[RemoteImage], folder: Path) -> None:
    """Write the listing into a dataset folder, in place of images."""
    with (folder / LISTING).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "class", "split", "version"))
        writer.writerows(images)


def read_listing(folder: Path) -> Iterator[RemoteImage]:
    """Read the listing that `write_listing` wrote.

    Raises:
        InputError: if it is damaged.
    """
    path = folder / LISTING
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            for row in rows:
                yield RemoteImage(*row)
    except (OSError, csv.Error, TypeError, UnicodeDecodeError, StopIteration) as error:
        raise InputError(f"{path} is damaged ({error}); run src/download.py again") from None


def _in_bucket(source: str) -> Iterator[RemoteImage]:
    filesystem, path = _open_filesystem(source)
    try:
        from upath import UPath
    except ImportError as error:
        raise _not_installed(source, error) from None

    filesystem.ls(path)  # raises an error with the reason; `UPath.is_dir` hides it
    root = UPath(source)
    class_folders = find_class_folders(root)
    if left_out := describe_left_out(root, class_folders.values()):
        print(left_out, flush=True)
    for (split, class_name), folder in class_folders.items():
        for file, details in filesystem.find(folder.path, detail=True).items():
            below = file.removeprefix(f"{folder.path.rstrip('/')}/")
            if not any(part.startswith(".") for part in below.split("/")):
                url = filesystem.unstrip_protocol(file)
                yield RemoteImage(url, class_name, split, _version(details))


def _version(details: dict) -> str:
    """A file's content hash, or else its modification time; the name depends on the server."""
    keys = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
    return next((str(details[key]).strip('"') for key in keys if details.get(key)), "")


def _in_list(source: str) -> Iterator[RemoteImage]:
    if is_remote(source):
        text = read(source).decode("utf-8-sig")
    else:
        text = Path(source).expanduser().read_text(encoding="utf-8-sig")
    rows = csv.DictReader(io.StringIO(text))
    if not {"url", "class"} <= set(rows.fieldnames or ()):
        raise InputError(
            f"{source}: found the columns {', '.join(rows.fieldnames or ['(none)'])}; "
            "allowed: url, class and optionally split"
        )
    for row in rows:
        place = f"{source}, line {rows.line_num}"
        url, class_name, split = (row.get(key) or "" for key in ("url", "class", "split"))
        if not is_remote(url):
            raise InputError(f"{place}: found the url {url!r}; allowed: https://..., s3://...")
        if not class_name:
            raise InputError(f"{place}: found no class for {url}")
        if split and split.lower() not in SPLIT_NAMES:
            raise InputError(f"{place}: found {split!r}; allowed: {', '.join(SPLIT_NAMES)}")
        yield RemoteImage(url, class_name, SPLIT_NAMES.get(split.lower(), ""), "")


def _open_filesystem(url: str) -> tuple:
    """The fsspec file system for a URL, and the path within it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except (ImportError, ValueError) as error:  # a missing package or an unknown protocol
        raise _not_installed(url, error) from None


def _not_installed(url: str, error: Exception) -> InputError:
    return InputError(
        f"{url}: {_reason(error)}; pip install -r requirements-cluster.txt adds s3:// and gs://"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
