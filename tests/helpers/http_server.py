"""An HTTP server on 127.0.0.1 that supports ranges and versions, and misbehaves on demand."""

import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """Serves `content` at every path, like a file server.

    Each request uses up one of the `faults`; after them, `always` answers if it is set.
    """

    def __init__(self) -> None:
        self.content = b""
        self.headers: Callable[[], dict[str, str]] = self.etag  # headers that identify the version
        self.ranges = True
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[dict[str, str]] = []  # headers of each request
        self.sent = 0  # bytes of content, over all requests
        self.closing = threading.Event()

        class Handler(Request):
            server_state = self

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.url = f"{self.address}/pets.zip"

    def etag(self) -> dict[str, str]:
        return {"ETag": f'"{hashlib.sha256(self.content).hexdigest()}"'}

    @property
    def ranges_asked(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


class Request(BaseHTTPRequestHandler):
    """Answers one request to the `FileServer` in `server_state`."""

    server_state: FileServer

    def do_GET(self) -> None:
        state = self.server_state
        state.requests.append(dict(self.headers))
        fault = state.faults.pop(0) if state.faults else state.always
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            (fault or Request.answer)(self)

    def answer(self, limit: int | None = None, pause: float = 0, length: int | None = None) -> None:
        """Send the requested bytes: at most `limit`, with `pause` seconds after each byte.

        `length` replaces the Content-Length.
        """
        state = self.server_state
        version, whole = state.headers(), len(state.content)
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and state.ranges and self.headers.get("If-Range", "") in ("", *version.values()):
            start, status = int(asked[1]), 206
        if start >= whole > 0:
            self.send(b"", 416, {"Content-Range": f"bytes */{whole}"})
            return
        self.send_response(status)
        for name, value in version.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(whole - start if length is None else length))
        self.end_headers()
        body = memoryview(state.content)[start:][:limit]
        for position in range(0, len(body), 1 if pause else 1 << 16):
            piece = body[position : position + (1 if pause else 1 << 16)]
            state.sent += len(piece)  # before writing: the test may check as soon as they arrive
            self.wfile.write(piece)
            if pause and state.closing.wait(pause):
                return

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        """Send a response other than the file."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


Fault = Callable[[Request], None]


def status(code: int, **headers: str) -> Fault:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: request.send(b"sorry", code, names)


def page(content: bytes) -> Fault:
    return lambda request: request.send(content, 200, {"Content-Type": "text/html"})


def cut(after: int) -> Fault:
    """Close the connection after `after` bytes."""
    return lambda request: request.answer(limit=after)


def stall(after: int) -> Fault:
    """Send nothing after `after` bytes, but keep the connection open."""

    def answer(request: Request) -> None:
        request.answer(limit=after)
        request.server_state.closing.wait()

    return answer


def trickle(pause: float) -> Fault:
    return lambda request: request.answer(pause=pause)


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a server in a thread; yields its URL."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def file_server(content: bytes) -> Iterator[FileServer]:
    server = FileServer()
    server.content = content
    with serving(server.http):
        try:
            yield server
        finally:
            server.closing.set()


def last_modified(seconds_ago: float) -> dict[str, str]:
    now = time.time()
    return {"Last-Modified": formatdate(now - seconds_ago, usegmt=True)}


def serve_folder(folder: Path) -> AbstractContextManager[str]:
    """Serve the files of a folder on 127.0.0.1; yields the URL of the folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    return serving(ThreadingHTTPServer(("127.0.0.1", 0), handler))


@contextmanager
def nobody_listens() -> Iterator[str]:
    """A URL at which connections are refused."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"
