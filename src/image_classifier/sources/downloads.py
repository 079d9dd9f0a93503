"""Download a file that may be large from a server that may fail, and go on where it broke off."""

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
from tqdm import tqdm
from urllib3 import Retry
from urllib3.exceptions import HTTPError, ReadTimeoutError

from image_classifier.common.disk import no_space
from image_classifier.common.errors import NO_SPACE, InputError
from image_classifier.common.hashing import sha256_of

RETRIES = 3  # further attempts, counted anew after one that brought PROGRESS bytes
PROGRESS = 1 << 20
BACKOFF = 1  # seconds to wait after the first failure, twice as long after each further one
LONGEST_WAIT = 60  # seconds, whatever a busy server asks for in Retry-After
TIMEOUT = 30  # seconds without a byte before a connection counts as lost
# As curl's --speed-limit and --speed-time: so many bytes per second must come in so many seconds.
SPEED_LIMIT, SPEED_TIME = 1000, 60

BUSY = (429, 500, 502, 503, 504)
WAY_OUT = "name another place as download.source"


class UnfinishedError(InputError):
    """A download that the network cut short: what has arrived stays for the next attempt."""


class _ConnectionLostError(Exception):
    """A connection broke off, and another one may help."""


def download(url: str, sha256: str | None, path: Path) -> Path:
    """Bring the file at `url` to `path`, with a progress bar, or go on where a call was cut short.

    What has arrived stands beside `path` as `<name>.partial`, with its address and version in
    `<name>.json`; whole and checked, it is renamed. A file that an earlier call brought from the
    same address is not fetched again. Only one call at a time may use `path`, which is returned.
    `sha256` is what the bytes must hash to, in hexadecimal; None checks nothing.

    Raises:
        UnfinishedError: if the server refuses, or `RETRIES` further attempts failed.
        NoSpaceError: if the disk is full; what has arrived stays as well.
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
    """What has arrived of a file, and of which version of it."""

    def __init__(self, path: Path, url: str) -> None:
        """Take up what stands beside `path`; what came from another address is deleted."""
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
        self.size: int | None = record.get("size")  # of the whole file; None: not known
        self.in_pieces = self.count > 0

    @property
    def count(self) -> int:
        """The number of bytes that have arrived."""
        return self.file.stat().st_size if self.file.exists() else 0

    def delete(self) -> None:
        self.file.unlink(missing_ok=True)

    def start_over(self, response: requests.Response) -> None:
        """Make room for the version that a server's answer brings from its first byte on.

        The old bytes go before the new record comes, so that a kill never leaves the two together.
        """
        self.delete()
        self.in_pieces = False
        self.validator = _validator(response)
        self.size = response.raw.length_remaining
        new = self._record.with_suffix(".new")
        record = {"url": self.url, "validator": self.validator, "size": self.size}
        new.write_text(json.dumps(record), encoding="utf-8")
        new.replace(self._record)

    def go_on(self, response: requests.Response) -> bool:
        """Whether a 206 answer brings the bytes that come next of the same version."""
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
    """What If-Range may name a file's version by (RFC 9110, sections 8.8 and 13.1.5).

    A weak ETag may stand for different bytes, and so may a file that was changed in the second in
    which it was sent.
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
    """Fetch what is missing; `checked` says that a checksum would tell a mixture of versions."""
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
    """Fetch what is missing over one connection, or raise `_ConnectionLostError`."""
    start = partial.count
    if start and start == partial.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if start and (partial.validator or checked):
        # Of headers that are None, requests sends none.
        headers |= {"Range": f"bytes={start}-", "If-Range": partial.validator}
    with session.get(partial.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416 and response.headers.get("Content-Range") == f"bytes */{start}":
            return
        if status == 416 or (status == 206 and not partial.go_on(response)):
            partial.delete()
            raise _ConnectionLostError("the file changed while it was fetched")
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
        raise _ConnectionLostError("the connection broke off")


def _write(response: requests.Response, partial: _Partial) -> None:
    """Append an answer's body to what has arrived, if there is room for all of it."""
    count, size = partial.count, partial.size
    if size and size - count > shutil.disk_usage(partial.file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    bar = tqdm(desc="downloading", initial=count, total=size, unit="B", unit_scale=True)
    with bar, partial.file.open("ab") as file:
        since, received = time.monotonic(), 0
        while True:
            try:
                # Not iter_content: it waits for a whole chunk, however slowly that comes.
                chunk = response.raw.read1(1 << 16, decode_content=False)
            except ReadTimeoutError:
                raise _ConnectionLostError(f"no byte came for {TIMEOUT} seconds") from None
            except HTTPError as error:
                raise _ConnectionLostError("the connection broke off") from error
            if not chunk:
                return
            file.write(chunk)
            file.flush()
            bar.update(len(chunk))
            received += len(chunk)
            if (seconds := time.monotonic() - since) >= SPEED_TIME:
                if received < SPEED_LIMIT * seconds:
                    raise _ConnectionLostError(f"less than {SPEED_LIMIT:,} bytes came per second")
                since, received = time.monotonic(), 0


def _unfinished(partial: _Partial, reason: str, checked: bool) -> UnfinishedError:
    kept = ""
    if partial.count and (partial.validator or checked):
        whole = f" of {partial.size:,}" if partial.size else ""
        kept = f"{partial.count:,}{whole} bytes are here: run the same command to go on, or "
    return UnfinishedError(f"{partial.url} could not be downloaded ({reason}); {kept}{WAY_OUT}")


def _root_cause(error: BaseException) -> str:
    """The innermost reason of a `requests` error: the outer ones repeat the address."""
    while isinstance(error.args and error.args[0], BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", None) or error)
