"""Download a file that may be large from a server that may fail."""

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pooch
import requests

from image_classifier.errors import InputError

RETRIES = 3
TIMEOUT = 30  # seconds without a byte before a connection counts as lost


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


def _root_cause(error: BaseException) -> str:
    """The innermost reason of a `requests` error: the outer ones repeat the address."""
    while isinstance(error.args and error.args[0], BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", None) or error)
