import gzip
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from helpers.fault_table import faulty
from helpers.http_server import (
    Fault,
    FileServer,
    Request,
    cut,
    file_server,
    last_modified,
    nobody_listens,
    stall,
    status,
    trickle,
)
from image_classifier.common.disk import NoSpaceError
from image_classifier.common.errors import InputError
from image_classifier.sources import downloads
from image_classifier.sources.downloads import UnfinishedError, download

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
WHOLE = len(CONTENT)
HALF = WHOLE // 2
SHORTER = OTHER[: HALF - 1]
REST = f"bytes={HALF}-"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloaded" / "pets.zip"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules with shorter times, but long enough for a normal answer of a busy machine."""
    for name, value in {"BACKOFF": 0, "LONGEST_WAIT": 1, "TIMEOUT": 4, "SPEED_TIME": 0.3}.items():
        monkeypatch.setattr(downloads, name, value)


def checksum(content: bytes) -> str:
    return sha256(content).hexdigest()


def replace_content(content: bytes, then: Fault) -> Fault:
    """Replace the file before answering this request."""

    def answer(request: Request) -> None:
        request.server_state.content = content
        then(request)

    return answer


def no_answer(request: Request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def silence(request: Request) -> None:
    request.server_state.closing.wait()


def part(start: int, whole: int) -> Fault:
    """Send the missing number of bytes, but from `start`, or of a file with `whole` bytes."""
    content_range = f"bytes {start}-{start + HALF - 1}/{whole}"
    return lambda request: request.send(OTHER[:HALF], 206, {"Content-Range": content_range})


def ignore_if_range(request: Request) -> None:
    """Answer like servers that support Range but not If-Range."""
    del request.headers["If-Range"]
    request.answer()


def chunked(limit: int | None) -> Fault:
    """Send without announcing the length; with `limit`, stop early."""

    def answer(request: Request) -> None:
        content = request.server_state.content[:limit]
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        for name, value in request.server_state.headers().items():
            request.send_header(name, value)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        end = b"" if limit else b"0\r\n\r\n"
        request.server_state.sent += len(content)
        request.wfile.write(b"%x\r\n%b\r\n%b" % (len(content), content, end))
        request.close_connection = True

    return answer


def test_a_file_is_downloaded_once(
    server: FileServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in range(2):
        assert download(server.url, checksum(CONTENT), path) == path
        assert path.read_bytes() == CONTENT
    assert "downloading:   0%|" in capsys.readouterr().err
    assert (len(server.requests), server.sent) == (1, WHOLE)
    assert not list(path.parent.glob("*.partial"))


network = partial(faulty, "Network")
TRIED_AGAIN, STARTS_AGAIN = "tried again, complete", "starts again, complete"
RESUMES = "resumes where it stopped; no byte is fetched twice"


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        network("status 500, then success", TRIED_AGAIN, status(500), [None, None]),
        network(
            "status 503 with Retry-After",
            "waits as asked, complete",
            status(503, Retry_After="1"),
            [None, None],
        ),
        network("connection closed without an answer", TRIED_AGAIN, no_answer, [None, None]),
        network("connection cut at half", RESUMES, cut(HALF), [None, REST]),
        network("server stalls at half", RESUMES, stall(HALF), [None, REST]),
        network(
            "connection cut at half, length not announced", RESUMES, chunked(HALF), [None, REST]
        ),
        network(
            "Content-Length too large",
            "asks for the rest; complete",
            lambda request: request.answer(length=2 * WHOLE),
            [None, f"bytes={WHOLE}-"],
        ),
    ],
)
def test_a_failed_download_is_tried_again(
    server: FileServer, path: Path, first: Fault, asked: list[str | None]
):
    server.faults = [first]
    assert download(server.url, None, path).read_bytes() == CONTENT
    assert server.ranges_asked == asked
    if asked[-1] == REST:
        assert server.sent == WHOLE


@pytest.mark.fault("Network", "slow trickle, then full speed", RESUMES)
def test_a_slow_connection_is_replaced(server: FileServer, path: Path):
    server.faults = [trickle(0.05)]
    assert download(server.url, None, path).read_bytes() == CONTENT
    assert len(server.requests) == 2 and server.sent < WHOLE + 1000  # some arrived too late


@pytest.mark.fault("Network", "redirect", "followed, and followed again when the download resumes")
def test_redirects_are_followed(server: FileServer, path: Path):
    redirect = status(302, Location="/elsewhere/pets.zip")
    server.faults = [redirect, cut(HALF), redirect]
    assert download(server.url, None, path).read_bytes() == CONTENT
    assert server.ranges_asked == [None, None, REST, REST]


@pytest.mark.fault("Network", "cut at 40 places, one after another", RESUMES)
def test_each_connection_resumes_where_the_last_one_stopped(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
):
    monkeypatch.setattr(downloads, "PROGRESS", 1000)
    server.faults = [cut(7_000)] * 40
    record_property("injections", 40)
    assert download(server.url, None, path).read_bytes() == CONTENT
    assert server.sent == WHOLE
    assert server.ranges_asked[1:] == [f"bytes={7_000 * n}-" for n in range(1, 41)]


@pytest.mark.fault("Network", "run again after a cut at 30 places", RESUMES)
def test_a_later_call_resumes(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
):
    monkeypatch.setattr(downloads, "RETRIES", 0)
    places = [1, WHOLE - 1, *np.random.default_rng(2).integers(2, WHOLE, 28)]
    record_property("injections", len(places))
    for number, place in enumerate(places):
        target = path.with_name(str(number))
        server.faults, server.sent, server.requests = [cut(place)], 0, []
        with pytest.raises(
            UnfinishedError, match=f"{place:,} of 300,000 bytes are kept: run the same"
        ):
            download(server.url, None, target)
        assert not target.exists()
        assert download(server.url, None, target).read_bytes() == CONTENT
        assert server.sent == WHOLE and server.ranges_asked == [None, f"bytes={place}-"]


def test_only_parts_of_a_known_version_are_joined(server: FileServer, path: Path):
    """Which answers of a server allow a download to resume."""
    goes_on, starts_over = [None, REST], [None, None]
    weak = {"ETag": 'W/"1"', **last_modified(3600)}
    for number, (headers, digest, asked) in enumerate(
        [
            (last_modified(3600), None, goes_on),
            # The file may have changed again in the same second.
            (partial(last_modified, 0), None, starts_over),
            ({"Last-Modified": "yesterday"}, None, starts_over),
            (weak, None, starts_over),
            ({}, None, starts_over),
            (weak, checksum(CONTENT), goes_on),
            ({}, checksum(CONTENT), goes_on),
        ]
    ):
        server.headers = headers if callable(headers) else partial(dict, headers)
        server.faults, server.requests = [cut(HALF)], []
        target = path.with_name(str(number))
        assert download(server.url, digest, target).read_bytes() == CONTENT
        assert server.ranges_asked == asked, headers
        validator = (
            server.headers().get("Last-Modified") if asked == goes_on and not digest else None
        )
        assert server.requests[-1].get("If-Range") == validator


@pytest.mark.fault("Network", "server without ranges, cut at half", STARTS_AGAIN)
def test_without_ranges_a_download_starts_again(server: FileServer, path: Path):
    server.ranges, server.faults = False, [cut(HALF)]
    assert download(server.url, None, path).read_bytes() == CONTENT
    assert server.sent == HALF + WHOLE


COMPLETE_AND_NEW = "the new file, complete; never a mixture"


@pytest.mark.parametrize(
    ("content", "second"),
    [
        network("file changed between attempts", COMPLETE_AND_NEW, OTHER, Request.answer),
        network("file shortened between attempts", COMPLETE_AND_NEW, SHORTER, Request.answer),
        network("file changed, server ignores If-Range", COMPLETE_AND_NEW, OTHER, ignore_if_range),
        network(
            "file shortened, server ignores If-Range", COMPLETE_AND_NEW, SHORTER, ignore_if_range
        ),
        network("another range than requested", STARTS_AGAIN, CONTENT, part(1000, WHOLE)),
        network("range of a file of another size", STARTS_AGAIN, CONTENT, part(HALF, WHOLE + 1)),
    ],
)
def test_versions_are_never_mixed(server: FileServer, path: Path, content: bytes, second: Fault):
    server.faults = [cut(HALF), replace_content(content, second)]
    assert download(server.url, None, path).read_bytes() == content


@pytest.mark.fault(
    "Network", "file replaced this second, server ignores If-Range", COMPLETE_AND_NEW
)
def test_a_weak_date_shows_a_change(server: FileServer, path: Path):
    server.headers = lambda: last_modified(3600 if server.content is CONTENT else 0)
    server.faults = [cut(HALF), replace_content(OTHER, ignore_if_range)]
    assert download(server.url, None, path).read_bytes() == OTHER
    assert server.ranges_asked == [None, REST, None]


def test_a_mixture_found_by_the_checksum_is_downloaded_again(server: FileServer, path: Path):
    server.headers = dict
    server.faults = [cut(HALF), replace_content(OTHER, Request.answer)]
    assert download(server.url, checksum(OTHER), path).read_bytes() == OTHER
    assert server.ranges_asked == [None, REST, None]


@pytest.mark.parametrize("place", [HALF, WHOLE], ids=["half", "all"])
@pytest.mark.parametrize("length_known", [True, False])
def test_a_partial_download_of_a_killed_process_is_resumed(
    server: FileServer, path: Path, place: int, length_known: bool
):
    """Killed before the rest arrived, or before the file got its name."""
    path.parent.mkdir()
    path.with_name("pets.zip.partial").write_bytes(CONTENT[:place])
    size = WHOLE if length_known else None
    record = {"url": server.url, "validator": server.etag()["ETag"], "size": size}
    path.with_name("pets.zip.json").write_text(json.dumps(record))
    assert download(server.url, None, path).read_bytes() == CONTENT
    assert server.sent == WHOLE - place
    assert len(server.requests) == (0 if length_known and place == WHOLE else 1)


@pytest.mark.parametrize("record", ["", "{}", '{"url": "http://127.0.0.1/other.zip"}'])
def test_a_partial_download_of_another_address_is_not_used(
    server: FileServer, path: Path, record: str
):
    path.parent.mkdir()
    for name in ("pets.zip", "pets.zip.partial"):
        path.with_name(name).write_bytes(OTHER)
    path.with_name("pets.zip.json").write_text(record)
    assert download(server.url, None, path).read_bytes() == CONTENT


def test_a_changed_checksum_makes_a_finished_file_outdated(server: FileServer, path: Path):
    download(server.url, checksum(CONTENT), path)
    server.content = OTHER
    assert download(server.url, checksum(OTHER), path).read_bytes() == OTHER


ONE_LINE = "one-line error with the address and a remedy"
STALL = stall(1000)


@pytest.mark.parametrize(
    ("always", "reason", "requests"),
    [
        network("404", ONE_LINE, status(404), "404 Not Found", 1),
        network("status 500 every time", ONE_LINE, status(500), "500 Internal Server Error", 4),
        network(
            "status 503 with Retry-After of a day",
            "does not wait",
            status(503, Retry_After="86400"),
            "503 Service Unavailable",
            4,
        ),
        network(
            "redirect to itself",
            ONE_LINE,
            status(302, Location="/pets.zip"),
            "Exceeded 30 redirects.",
            31,
        ),
        network("no answer every time", ONE_LINE, no_answer, "Connection aborted.", 4),
        network("stall before the answer", ONE_LINE, silence, "Read timed out", 4),
        network("cut after the headers", ONE_LINE, cut(0), "connection was lost", 4),
        network(
            "cut at half every time, length not announced",
            ONE_LINE,
            chunked(HALF),
            "connection was lost",
            4,
        ),
        network("stall every time", ONE_LINE, STALL, "no data arrived for", 4),
        network(
            "slow trickle every time",
            ONE_LINE,
            trickle(0.05),
            "slower than 1,000 bytes per second",
            4,
        ),
    ],
)
def test_a_failed_download_names_the_address(
    server: FileServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    always: Fault,
    reason: str,
    requests: int,
):
    server.always = always
    if always in (silence, STALL):  # no request has a normal answer
        monkeypatch.setattr(downloads, "TIMEOUT", 0.5)
    with pytest.raises(UnfinishedError) as caught:
        download(server.url, None, path)
    message = str(caught.value)
    assert message.startswith(f"{server.url} could not be downloaded (") and reason in message
    assert message.endswith("set download.source to another location")
    assert len(message.splitlines()) == 1
    assert len(server.requests) == requests
    assert not path.exists()


@pytest.mark.fault("Network", "server without ranges, cut at half every time", ONE_LINE)
def test_receiving_the_same_bytes_again_is_not_progress(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloads, "PROGRESS", 1000)
    server.ranges, server.always = False, cut(HALF)
    with pytest.raises(UnfinishedError, match="150,000 of 300,000 bytes are kept"):
        download(server.url, None, path)
    assert len(server.requests) == 4


@pytest.mark.fault("Network", "connection refused", ONE_LINE)
def test_a_refused_connection_is_named(path: Path):
    refused = r"/pets\.zip could not .*Connection refused"
    with nobody_listens() as address, pytest.raises(UnfinishedError, match=f"^{address}{refused}"):
        download(f"{address}/pets.zip", None, path)
    assert not list(path.parent.iterdir())


@pytest.mark.fault("Network", "unknown server name", ONE_LINE)
def test_an_unknown_server_is_named(path: Path):
    with pytest.raises(UnfinishedError, match=r"nowhere\.invalid/pets\.zip could .*resolve"):
        download("http://nowhere.invalid/pets.zip", None, path)


@pytest.mark.parametrize("url", ["http://[::1/pets.zip", "http://", f"http://{'a' * 300}/pets.zip"])
def test_invalid_addresses_are_refused(path: Path, url: str):
    with pytest.raises(InputError, match="could not be downloaded"):
        download(url, None, path)


@pytest.mark.fault("Network", "wrong checksum", "one-line error; nothing of the file is kept")
def test_a_file_with_a_wrong_checksum_is_not_kept(server: FileServer, path: Path):
    with pytest.raises(InputError) as caught:
        download(server.url, "0" * 64, path)
    assert not isinstance(caught.value, UnfinishedError)
    message = f"download.sha256: {server.url} has {checksum(CONTENT)}, not {'0' * 64}"
    assert str(caught.value).startswith(message) and "download.source" in str(caught.value)
    assert len(server.requests) == 1
    assert not path.exists() and not list(path.parent.glob("*.partial"))


@pytest.mark.fault(
    "Network", "wrong checksum after a cut", "tried again once, then a one-line error"
)
def test_a_wrong_checksum_after_a_cut_is_tried_again_once(server: FileServer, path: Path):
    server.faults = [cut(HALF), Request.answer, cut(HALF)]
    with pytest.raises(InputError, match=r"has .*, not 0000"):
        download(server.url, "0" * 64, path)
    assert server.ranges_asked == [None, REST, None, REST]


@pytest.mark.fault("Disk", "too little room for a download", "one-line error before the first byte")
def test_too_little_space_is_reported_before_the_download(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(path.parents[1])._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NoSpaceError, match=r"300.0 kB needed, 1.0 kB free"):
        download(server.url, None, path)
    assert not list(path.parent.glob("*.zip")) and not list(path.parent.glob("*.partial"))
    monkeypatch.undo()
    assert download(server.url, None, path).read_bytes() == CONTENT


def test_a_compressed_file_is_not_decompressed(server: FileServer, path: Path):
    """Servers may call a .gz "encoded" without being asked to encode."""
    server.content = gzip.compress(CONTENT)
    server.headers = lambda: {"Content-Encoding": "gzip"}
    assert download(server.url, None, path).read_bytes() == server.content
    assert server.requests[0]["Accept-Encoding"] == "identity"
