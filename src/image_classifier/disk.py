"""Write so that a process that is killed, or a disk that is full, costs nothing that there was."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classifier.errors import NO_SPACE, InputError


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
        InputError: if there is no room for them, before anything is written or while it is.
    """
    free = shutil.disk_usage(path.parent).free
    try:
        if size > free:
            raise OSError(NO_SPACE[0], "")
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise InputError(
            f"{path}: not enough space on the disk, it needs {format_bytes(size)} "
            f"and {format_bytes(free)} are free"
        ) from None


def format_bytes(count: int) -> str:
    """For a person: 512 bytes, 3.4 MB, 12.0 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
