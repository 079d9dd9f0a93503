"""Download a large file from an unreliable server, and resume interrupted downloads."""

import errno
import json
import os
import re
import shutil
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError, ReadTimeoutError

from image_classifier.common.disk import no_space
from image_classifier.common.errors import NO_SPACE, InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.common.progress import progress_bar

RETRIES = 3  # retries after a failure; the count restarts once PROGRESS bytes have arrived
PROGRESS = 1 << 20
BACKOFF = 1  # seconds to wait after the first failure, doubled after each further one
LONGEST_WAIT = 60  # seconds; limits the Retry-After of a busy server
TIMEOUT = 30  # seconds without data after which a connection counts as lost
# Like curl's --speed-limit and --speed-time: abort below SPEED_LIMIT bytes per second, averaged
# over SPEED_TIME seconds.
SPEED_LIMIT, SPEED_TIME = 1000, 60

BUSY = (429, 500, 502, 503, 504)
WAY_OUT = "set download.source to another location"


class UnfinishedError(InputError):
    """The network interrupted a download; the partial file is kept for the next run."""


class _ConnectionLostError(Exception):
    """A connection was lost; a new one may help."""


def download(url: str, sha256: str | None, path: Path) -> Path:
    """Download the file at `url` to `path`, with a progress bar, or resume an interrupted download.

    The partial file is `<name>.partial` beside `path`, with its URL and version in `<name>.json`;
    when it is complete and checked, it is renamed. A file that an earlier call downloaded from the
    same URL is not fetched again. Only one call at a time may use `path`.

    Args:
        sha256: the expected hash of the bytes, in hexadecimal; None: not checked.

    Returns:
        `path`.

    Raises:
        UnfinishedError: if the server refuses the request, or all `RETRIES` retries failed.
        NoSpaceError: if the disk is full; the partial file is kept.
        InputError: if the bytes do not match `sha256`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(path, url)
    if path.exists() and (not sha256 or sha256_of(path) == sha256):
        return path
    for _ in range(2):
        _complete(partial, checked=sha256 is not None)
        if not sha256 or (found := sha256_of(partial.file)) == sha256:
            return partial.file.rename(path)
        partial.delete()
        if not partial.in_pieces:
            break
    raise InputError(f"download.sha256: {url} has {found}, not {sha256}; correct it, or {WAY_OUT}")


class _Partial:
    """A partly downloaded file, and the version of the file that it belongs to."""

    def __init__(self, path: Path, url: str) -> None:
        """Find the partial file beside `path`; delete files downloaded from another URL."""
        self.url = url
        self.file = path.with_name(f"{path.name}.partial")
        self._record = path.with_name(f"{path.name}.json")
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = {}
        if record.get("url") != url:
            record = {}
            path.unlink(missing_ok=True)
            self.delete()
        self.validator: str | None = record.get("validator")
        self.size: int | None = record.get("size")  # of the whole file; None: unknown
        self.in_pieces = self.count > 0

    @property
    def count(self) -> int:
        """The number of bytes that have arrived."""
        return self.file.stat().st_size if self.file.exists() else 0

    def delete(self) -> None:
        self.file.unlink(missing_ok=True)

    def start_over(self, response: requests.Response) -> None:
        """Delete the partial file, and record the version that `response` sends from byte 0.

        The old bytes are deleted before the new record is written, so that a kill never leaves
        bytes of one version with the record of another.
        """
        self.delete()
        self.in_pieces = False
        self.validator = _validator(response)
        self.size = response.raw.length_remaining
        new = self._record.with_suffix(".new")
        record = {"url": self.url, "validator": self.validator, "size": self.size}
        new.write_text(json.dumps(record), encoding="utf-8")
        new.replace(self._record)

    def resume(self, response: requests.Response) -> bool:
        """Whether a 206 response continues the partial file with the same version of the file."""
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if not match or int(match[1]) != self.count:
            return False
        named = {response.headers.get("ETag"), response.headers.get("Last-Modified")} - {None}
        if self.validator and named and self.validator not in named:
            return False
        size = self.size if match[2] == "*" else int(match[2])
        if self.size not in (None, size):
            return False
        self.in_pieces, self.size = True, size
        return True


def _validator(response: requests.Response) -> str | None:
    """The value for If-Range that identifies a file's version (RFC 9110, 8.8 and 13.1.5).

    None if there is no safe one: a weak ETag may stand for different bytes, and so may the time of
    a file that was modified in the second in which it was sent.
    """
    headers = response.headers
    if etag := headers.get("ETag"):
        return None if etag.startswith("W/") else etag
    try:
        changed, sent = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return headers["Last-Modified"] if (sent - changed).total_seconds() >= 1 else None
    except (KeyError, TypeError, ValueError):
        return None


def _complete(partial: _Partial, checked: bool) -> None:
    """Fetch the missing bytes; `checked`: a checksum will detect a mixture of versions."""
    retry = Retry(
        total=RETRIES,
        backoff_factor=BACKOFF,
        status_forcelist=BUSY,
        raise_on_status=False,
        retry_after_max=LONGEST_WAIT,
    )
    failures, furthest = 0, partial.count
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        while True:
            try:
                return _receive(session, partial, checked)
            except _ConnectionLostError as error:
                failures = 1 if partial.count >= furthest + PROGRESS else failures + 1
                furthest = max(furthest, partial.count)
                if failures > RETRIES:
                    raise _unfinished(partial, str(error), checked) from None
            except (requests.RequestException, HTTPError) as error:
                raise _unfinished(partial, _root_cause(error), checked) from None
            time.sleep(BACKOFF * 2 ** (failures - 1))


def _receive(session: requests.Session, partial: _Partial, checked: bool) -> None:
    """Fetch the missing bytes over one connection, or raise `_ConnectionLostError`."""
    start = partial.count
    if start and start == partial.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if start and (partial.validator or checked):
        # requests omits headers whose value is None.
        headers |= {"Range": f"bytes={start}-", "If-Range": partial.validator}
    with session.get(partial.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416 and response.headers.get("Content-Range") == f"bytes */{start}":
            return
        if status == 416 or (status == 206 and not partial.resume(response)):
            partial.delete()
            raise _ConnectionLostError("the file changed during the download")
        if status not in (200, 206):
            raise requests.HTTPError(f"{status} {response.reason}")
        try:
            if status == 200:
                partial.start_over(response)
            _write(response, partial)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            missing = partial.size - partial.count if partial.size else 0
            raise no_space(partial.file, missing, error.strerror) from None
    if partial.size not in (None, partial.count):
        raise _ConnectionLostError("the connection was lost")


def _write(response: requests.Response, partial: _Partial) -> None:
    """Append a response's body to the partial file, if the disk has space for all of it."""
    count, size = partial.count, partial.size
    if size and size - count > shutil.disk_usage(partial.file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    bar = progress_bar("downloading", size, "B", initial=count)
    with bar, partial.file.open("ab") as file:
        since, received = time.monotonic(), 0
        while True:
            try:
                # Not iter_content: it waits for a whole chunk, even if data arrives very slowly.
                chunk = response.raw.read1(1 << 16, decode_content=False)
            except ReadTimeoutError:
                raise _ConnectionLostError(f"no data arrived for {TIMEOUT} seconds") from None
            except HTTPError as error:
                raise _ConnectionLostError("the connection was lost") from error
            if not chunk:
                return
            file.write(chunk)
            file.flush()
            bar.update(len(chunk))
            received += len(chunk)
            if (seconds := time.monotonic() - since) >= SPEED_TIME:
                if received < SPEED_LIMIT * seconds:
                    raise _ConnectionLostError(f"slower than {SPEED_LIMIT:,} bytes per second")
                since, received = time.monotonic(), 0


def _unfinished(partial: _Partial, reason: str, checked: bool) -> UnfinishedError:
    kept = ""
    if partial.count and (partial.validator or checked):
        whole = f" of {partial.size:,}" if partial.size else ""
        kept = f"{partial.count:,}{whole} bytes are kept: run the same command to resume, or "
    return UnfinishedError(f"{partial.url} could not be downloaded ({reason}); {kept}{WAY_OUT}")


def _root_cause(error: BaseException) -> str:
    """The innermost reason of a `requests` error; the outer reasons repeat the URL."""
    while isinstance(error.args and error.args[0], BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", None) or error)
