"""Make a URL, an archive or a folder available as a local folder."""

from pathlib import Path

from image_classifier.common.disk import NoSpaceError
from image_classifier.common.errors import InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.common.remote import is_remote
from image_classifier.sources.archives import unpack
from image_classifier.sources.downloads import WAY_OUT, download


def is_url(source: str) -> bool:
    """Whether `source` is fetched over HTTP rather than read from disk."""
    return source.startswith(("http://", "https://"))


def is_listed(source: str) -> bool:
    """Whether `source` is a bucket or a CSV list of URLs, whose images are not copied."""
    return source.endswith(".csv") or (is_remote(source) and not is_url(source))


def fetch(source: str, sha256: str | None, scratch: Path) -> Path:
    """Make `source` available as a local folder.

    Args:
        source: `http(s)://` URL of an archive, path of an archive, or path of a folder.
        sha256: the expected hash of the archive's bytes, in hexadecimal; None: not checked.
        scratch: an existing folder to download and unpack into.

    Returns:
        The folder `source` itself, or a folder below `scratch` with the archive's files.

    Raises:
        InputError: if `source` is not available, does not match `sha256`, or is neither a folder
            nor a zip or tar archive.
    """
    if is_url(source):
        archive = download(source, sha256, scratch / "downloaded" / "archive")
        try:
            return unpack(archive, scratch / "unpacked", source)
        except NoSpaceError:
            raise
        except InputError as error:
            reason = f"{source} is a web page, not an archive" if _is_web_page(archive) else error
            raise InputError(f"{reason}; {WAY_OUT}") from None
    path = Path(source).expanduser()
    if path.is_dir():
        if sha256:
            raise InputError(f"download.sha256: {path} is a folder; only an archive can be checked")
        return path
    if not path.is_file():
        raise InputError(f"download.source: {path} not found; allowed: a URL, archive or folder")
    if sha256 and (found := sha256_of(path)) != sha256:
        raise InputError(f"download.sha256: {path} has {found}, not {sha256}")
    return unpack(path, scratch / "unpacked", str(path))


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1024).lower().lstrip(b"\xef\xbb\xbf \t\r\n")  # UTF-8's BOM, and blanks
    return start.startswith(b"<") and (b"<html" in start or b"<!doctype html" in start)
