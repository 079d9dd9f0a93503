"""Where pictures come from: a URL, an archive or a folder, each brought down to a local folder."""

import hashlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.parse import unquote, urlsplit

import pooch
import requests

from image_classifier.errors import InputError

RETRIES = 3
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
TIMEOUT = 30  # seconds without a byte before a connection counts as lost


def is_url(source: str) -> bool:
    """Whether `source` is fetched over HTTP rather than read from disk."""
    return source.startswith(("http://", "https://"))


def fetch(source: str, sha256: str | None, scratch: Path) -> Path:
    """Make what `source` names available as a local folder.

    Args:
        source: `http(s)://` URL of an archive, path of an archive, or path of a folder.
        sha256: what the archive's bytes must hash to, in hexadecimal; None checks nothing.
        scratch: an existing folder to download and unpack into.

    Returns:
        The folder named by `source` itself, or one below `scratch` with the archive's files.

    Raises:
        InputError: if it cannot be had, does not match `sha256`, or is no zip or tar archive.
    """
    if is_url(source):
        return unpack(
            download(source, sha256, scratch / "downloaded"), scratch / "unpacked", source
        )
    path = Path(source).expanduser()
    if path.is_dir():
        if sha256:
            raise InputError(f"download.sha256: {path} is a folder; only an archive can be checked")
        return path
    if not path.is_file():
        raise InputError(f"download.source: {path} not found; allowed: a URL, an archive, a folder")
    if sha256 and (found := sha256_of(path)) != sha256:
        raise InputError(f"download.sha256: {path} has {found}, not {sha256}")
    return unpack(path, scratch / "unpacked", str(path))


def download(url: str, sha256: str | None, folder: Path) -> Path:
    """Download `url` into `folder` with a progress bar; retried, checked, renamed when complete.

    Returns:
        The file's path; it has the name that the URL ends with.

    Raises:
        InputError: after `RETRIES` further attempts failed, with the address and the way out.
    """
    try:
        name = PurePosixPath(unquote(urlsplit(url).path)).name or "download"
    except ValueError as error:
        raise InputError(f"download.source: {url} is no address: {error}") from None
    pooch.get_logger().setLevel("WARNING")
    fetcher = pooch.create(
        path=folder, base_url="", registry={name: sha256}, urls={name: url}, retry_if_failed=RETRIES
    )
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    try:
        return Path(fetcher.fetch(name, downloader=downloader))
    except requests.RequestException as error:
        reason = f"could not be downloaded ({_root_cause(error)})"
    except ValueError:
        reason = f"does not have the sha256 {sha256}"
    raise InputError(f"{url} {reason}; name another place as download.source")


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


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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


def _root_cause(error: BaseException) -> str:
    """The innermost reason of a `requests` error: the outer ones repeat the address."""
    while isinstance(error.args and error.args[0], BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", None) or error)
