"""Crash-safe writes: a kill or a full disk never damages existing files."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classifier.common.errors import NO_SPACE, InputError


class NoSpaceError(InputError):
    """The disk is full."""


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder for unfinished output, removed at the end.

    Leftovers of a killed process at the same path are removed first.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def replace_folder(new: Path, old: Path) -> None:
    """Rename `new` to `old`, first moving any existing `old` next to `new`.

    `old` is never incomplete.
    """
    if old.exists():
        old.rename(new.with_name(f"{new.name}.replaced"))
    new.rename(old)


@contextmanager
def enough_space(path: Path, size: int) -> Iterator[None]:
    """A block that writes about `size` bytes to or below `path`.

    Raises:
        NoSpaceError: if the disk has too little space, before the block or while it writes.
    """
    if size > _free(path):
        raise no_space(path, size)
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise no_space(path, size, error.strerror) from None
        raise


def no_space(path: Path, size: int, reason: str = "no space left on the disk") -> NoSpaceError:
    """The error that `size` bytes (0: unknown) do not fit on the disk of `path`."""
    needed = f"{format_bytes(size)} needed, " if size else ""
    free = format_bytes(_free(path))
    return NoSpaceError(
        f"{path}: {reason} ({needed}{free} free); free some space and run the same command again"
    )


def format_bytes(count: int) -> str:
    """A human-readable size: 512 bytes, 3.4 MB, 12.0 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _free(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free
