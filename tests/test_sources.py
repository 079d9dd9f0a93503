import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from image_classifier import downloads
from image_classifier.errors import InputError
from image_classifier.sources import fetch

Answer = Callable[[BaseHTTPRequestHandler], None]


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PICTURES = {"pets/cat/1.jpg": b"cat" * 100_000, "pets/dog/1.jpg": b"dog"}
ARCHIVE = zip_of(PICTURES)


def answer_with(content: bytes, status: int = 200, length: int | None = None) -> Answer:
    """Answer with `content`, announcing `length` bytes of it."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content) if length is None else length))
        request.end_headers()
        request.wfile.write(content)

    return answer


class Server:
    """An HTTP server on 127.0.0.1 that gives the prepared answers in turn, then the last again."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                position = min(server.requests, len(server.answers) - 1)
                server.requests += 1
                server.answers[position](self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/pets.zip"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_url_is_downloaded_and_unpacked(server: Server, tmp_path: Path, capfd):
    server.answers = [answer_with(ARCHIVE)]
    sha256 = hashlib.sha256(ARCHIVE).hexdigest()
    assert contents(fetch(server.url, sha256, tmp_path)) == PICTURES
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    "first",
    [
        answer_with(b"", status=500),
        answer_with(ARCHIVE[: len(ARCHIVE) // 2], length=len(ARCHIVE)),
        answer_with(b"x" * len(ARCHIVE)),
    ],
    ids=["server error", "connection cut", "other bytes"],
)
def test_a_download_is_tried_again(server: Server, tmp_path: Path, first: Answer):
    server.answers = [first, answer_with(ARCHIVE)]
    sha256 = hashlib.sha256(ARCHIVE).hexdigest()
    assert contents(fetch(server.url, sha256, tmp_path)) == PICTURES
    assert server.requests == 2


@pytest.mark.parametrize(
    ("answer", "sha256", "fragment"),
    [
        (answer_with(b"", status=404), None, "could not be downloaded"),
        (answer_with(ARCHIVE[:1000], length=len(ARCHIVE)), None, "could not be downloaded"),
        (answer_with(ARCHIVE), "0" * 64, f"does not have the sha256 {'0' * 64}"),
        (answer_with(b"<html>moved</html>"), None, "neither a zip nor a tar archive"),
        (answer_with(ARCHIVE[:-2000]), None, "neither a zip nor a tar archive"),
    ],
    ids=["not found", "always cut", "wrong sha256", "a web page", "half an archive"],
)
def test_a_failed_download_names_the_address(
    server: Server, tmp_path: Path, answer: Answer, sha256: str | None, fragment: str
):
    server.answers = [answer]
    with pytest.raises(InputError) as caught:
        fetch(server.url, sha256, tmp_path)
    assert server.url in str(caught.value) and fragment in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.fault(
    "Network", "connection refused", "one line with the address and `download.source`"
)
def test_a_refused_connection_names_the_way_out(server: Server, tmp_path: Path):
    with pytest.raises(InputError, match=r"could not be downloaded .*download\.source"):
        fetch("http://127.0.0.1:1/pets.zip", None, tmp_path)


def test_a_stalled_download_ends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    released = threading.Event()

    def stall(request: BaseHTTPRequestHandler) -> None:
        answer_with(ARCHIVE[:1000], length=len(ARCHIVE))(request)
        request.wfile.flush()
        released.wait(30)

    server.answers = [stall]
    with pytest.raises(InputError, match="could not be downloaded"):
        fetch(server.url, None, tmp_path)
    released.set()


def test_a_folder_is_used_where_it_stands(tmp_path: Path):
    assert fetch(str(tmp_path), None, tmp_path / "scratch") == tmp_path


def test_a_local_archive_is_checked(tmp_path: Path):
    archive = tmp_path / "archive.zip"
    archive.write_bytes(ARCHIVE)
    fetch(str(archive), hashlib.sha256(ARCHIVE).hexdigest(), tmp_path / "a")
    with pytest.raises(InputError, match=r"download\.sha256: .*archive\.zip has"):
        fetch(str(archive), "0" * 64, tmp_path / "b")
    with pytest.raises(InputError, match="is a folder; only an archive can be checked"):
        fetch(str(tmp_path), "0" * 64, tmp_path / "c")


def test_a_missing_source_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"download\.source: .*nowhere not found"):
        fetch(str(tmp_path / "nowhere"), None, tmp_path / "scratch")


def test_what_is_no_address_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="is no address"):
        fetch("http://[::1/pets.zip", None, tmp_path)
