"""Unpack archives that may be damaged, or made to do harm."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from image_classifier.errors import InputError

# What reading a damaged or encrypted archive may raise.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
)


def unpack(archive: Path, folder: Path, name: str) -> Path:
    """Unpack the regular files of a zip or tar archive below `folder`.

    Links and devices are passed over; `name` is what error messages call the archive.

    Raises:
        InputError: if it is no such archive, is damaged, or names a file outside its own folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            members = _zip_members(archive)
        elif tarfile.is_tarfile(archive):
            members = _tar_members(archive)
        else:
            raise InputError(f"{name} is neither a zip nor a tar archive")
        for member, file in members:
            path = PurePosixPath(member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or PureWindowsPath(member).drive:
                raise InputError(
                    f"{name} is refused: its member {member!r} lies outside its folder"
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(file, out)
    except DAMAGED as error:
        raise InputError(f"{name} cannot be unpacked: {error}") from None
    return folder


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as members:
        for info in members.infolist():
            # The upper half of external_attr is the Unix mode, where the archiver wrote one.
            if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
                with members.open(info) as file:
                    yield info.filename, file


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as members:
        for info in members:
            if info.isfile():
                yield info.name, members.extractfile(info)
