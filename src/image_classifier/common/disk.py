"""Write so that a process that is killed, or a disk that is full, costs nothing that there was."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classifier.common.errors import NO_SPACE, InputError


class NoSpaceError(InputError):
    """The disk is full."""


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder for what is not finished, removed in the end.

    Its name is always the same, so that what a killed process left there is removed as well.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def replace_folder(new: Path, old: Path) -> None:
    """Give the folder `new` the name `old`; one that has it goes into the folder that `new` is in.

    There is never a folder `old` that is not whole.
    """
    if old.exists():
        old.rename(new.with_name(f"{new.name}.replaced"))
    new.rename(old)


@contextmanager
def enough_space(path: Path, size: int) -> Iterator[None]:
    """Write about `size` bytes to `path`, or below it, in the block.

    Raises:
        NoSpaceError: if there is no room for them, before anything is written or while it is.
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
    """The error that says that `size` bytes, 0 if that is not known, do not fit at `path`."""
    needed = f"{format_bytes(size)} needed, " if size else ""
    free = format_bytes(_free(path))
    return NoSpaceError(
        f"{path}: {reason} ({needed}{free} free); make room, and run the same command again"
    )


def format_bytes(count: int) -> str:
    """For a person: 512 bytes, 3.4 MB, 12.0 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _free(path: Path) -> int:
    """Bytes free on the disk that has `path`, or will have it."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free
