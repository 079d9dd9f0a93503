"""Corrections of labels: the file that `prepare.corrections` names, and its copy in data/prepared.

A CSV file with the columns sha256, path and class; an empty class leaves the image out. An image is
found by its content, so a correction survives renaming; the path is only for people.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from image_classifier.common.errors import InputError
from image_classifier.common.strict_yaml import shown

NAME = "corrections.csv"  # of the copy in data/prepared
HEADER = ("sha256", "path", "class")
SHA256 = re.compile("[0-9a-f]{64}")


class Correction(NamedTuple):
    """A row of the file."""

    sha256: str  # of the image's bytes, in hexadecimal
    # As in `raw_data.RawImage.path`, when the correction was made; in data/prepared, when it was
    # applied.
    path: str
    class_name: str  # the right class; "": the image is left out


def read_corrections(path: Path) -> list[Correction]:
    """Read corrections, sorted by hash. Equal corrections of the same content become one.

    Like spreadsheets, the file may begin with a byte order mark and have Windows line ends.

    Raises:
        InputError: naming the file and the line, if it is missing, unreadable or damaged, a row is
            wrong, or two rows disagree.
    """
    corrections: dict[str, Correction] = {}
    lines: dict[str, int] = {}
    for line, cells in _rows(path):
        sha256, image, class_name = cells
        sha256 = sha256.lower()
        if not SHA256.fullmatch(sha256):
            raise InputError(
                f"{path}, line {line}: found the sha256 {shown(sha256)}; allowed: 64 hexadecimal "
                "digits, 0 to 9 and a to f"
            )
        known = corrections.setdefault(sha256, Correction(sha256, image, class_name))
        first = lines.setdefault(sha256, line)
        if known.class_name != class_name:
            raise InputError(
                f"{path}, line {line}: found the class {shown(class_name)}, but "
                f"{shown(known.class_name)} in line {first} for the same image; allowed: one class "
                "for each image"
            )
    return [corrections[sha256] for sha256 in sorted(corrections)]


def applied_corrections(folder: Path) -> list[Correction]:
    """The corrections that `folder`, such as data/prepared, was made with; often none.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / NAME
    return read_corrections(path) if path.exists() else []


def write_corrections(corrections: Iterable[Correction], path: Path) -> None:
    """Write corrections as CSV: sha256, path, class."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *corrections])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each row below the header, without empty lines."""
    # Strict: a quote that is not closed would make one cell of the rest of the file.
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    line = 1
    try:
        header = next(rows, [])
        if tuple(header) != HEADER:
            raise InputError(
                f"{path}, line 1: found {shown(','.join(header))}; allowed: {','.join(HEADER)}"
            )
        line = rows.line_num + 1
        for cells in rows:
            if cells and len(cells) != len(HEADER):
                raise InputError(
                    f"{path}, line {line}: found {len(cells)} cells; allowed: {len(HEADER)}, "
                    f"{','.join(HEADER)}"
                )
            if cells:
                yield line, cells
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: found no valid CSV ({error}); allowed: {','.join(HEADER)}"
        ) from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{path}: not found; allowed: a CSV file with the columns {', '.join(HEADER)}"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        found = error.object[error.start]
        raise InputError(
            f"{path}, line {line}: found byte 0x{found:02x}; allowed: UTF-8 text"
        ) from None
