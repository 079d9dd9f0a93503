"""Unpack archives that may be damaged or malicious."""

import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from image_classifier.common.disk import no_space
from image_classifier.common.errors import NO_SPACE, InputError
from image_classifier.common.progress import progress_bar

# Errors raised by reading a damaged or encrypted archive.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)

# Images hardly compress, so an archive with a larger ratio is a bomb that would fill the disk.
LARGEST_RATIO = 100
SMALLEST_BOMB = 2**30  # bytes

# Headers for long names and extra attributes, which tarfile reads into memory.
TAR_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
LARGEST_TAR_HEADER = 2**20  # bytes

Members = Iterator[tuple[str, int, IO[bytes]]]
"""Name, size in bytes and content of each regular file."""
SizeCheck = Callable[[int, int], None]
"""Called with the bytes of all files so far, and of those that are not written yet."""


def unpack(archive: Path, folder: Path, name: str) -> Path:
    """Unpack the regular files of a zip or tar archive below `folder`.

    Links and devices are skipped; of members with the same name, the last one is kept. Error
    messages call the archive `name`.

    Raises:
        InputError: if it is neither a zip nor a tar archive, is damaged, has a member outside its
            folder, or unpacks to more than `LARGEST_RATIO` times its size.
        NoSpaceError: if it needs more space than is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_size = partial(_check_size, archive=archive, folder=folder, name=name)
    needed = 0
    try:
        with progress_bar("unpacking", None, "file") as progress:
            for member, size, file in _members(archive, check_size, name):
                path = PurePosixPath(member.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or PureWindowsPath(member).drive:
                    raise InputError(
                        f"{name} is refused: its member {member!r} is outside the archive's folder"
                    )
                target = folder / path
                needed += size
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(file, out)
                progress.update()
    except DAMAGED as error:
        if getattr(error, "errno", None) in NO_SPACE:
            raise no_space(folder, needed, error.strerror) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} cannot be unpacked: {reason}") from None
    return folder


def _check_size(size: int, further: int, archive: Path, folder: Path, name: str) -> None:
    """Check, as a `SizeCheck`, that the next files may be unpacked and fit on the disk."""
    if size > max(SMALLEST_BOMB, LARGEST_RATIO * archive.stat().st_size):
        raise InputError(
            f"{name} is refused: it unpacks to at least {size:,} bytes, more than {LARGEST_RATIO} "
            "times its size"
        )
    if further > shutil.disk_usage(folder).free:
        raise no_space(folder, further)


def _members(archive: Path, check_size: SizeCheck, name: str) -> Members:
    # tar first: a tar archive that ends with a zip archive is also recognized as zip.
    try:
        tar = tarfile.open(archive, tarinfo=_TarHeader)  # noqa: SIM115
    except (tarfile.ReadError, EOFError):
        if not zipfile.is_zipfile(archive):
            raise InputError(f"{name} is neither a zip nor a tar archive") from None
        return _zip_members(zipfile.ZipFile(archive), check_size)
    return _tar_members(tar, check_size)


def _zip_members(archive: zipfile.ZipFile, check_size: SizeCheck) -> Members:
    with archive:
        # The upper half of external_attr is the Unix mode, if the archiver wrote it.
        files = [
            info
            for info in archive.infolist()
            if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
        ]
        size = sum(info.file_size for info in files)  # zipfile never reads more than file_size
        check_size(size, size)
        for info in files:
            with archive.open(info) as file:
                yield info.filename, info.file_size, file


def _tar_members(archive: tarfile.TarFile, check_size: SizeCheck) -> Members:
    with archive:
        size = 0
        for info in archive:
            if info.size < 0:
                raise ValueError(f"member {info.name!r} has {info.size:,} bytes")
            size += info.size
            check_size(size, info.size)
            if info.isfile():
                yield info.name, info.size, archive.extractfile(info)


class _TarHeader(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_TarHeader":
        header = super().frombuf(buf, encoding, errors)
        if header.type in TAR_HEADERS and not 0 <= header.size <= LARGEST_TAR_HEADER:
            raise ValueError(f"it has a header of {header.size:,} bytes")
        return header
