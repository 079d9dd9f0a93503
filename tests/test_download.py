"""src/download.py and its datasets."""

import gzip
import hashlib
import io
import itertools
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import download
from helpers.fault_table import faulty
from helpers.http_server import (
    Fault,
    FileServer,
    Request,
    cut,
    file_server,
    nobody_listens,
    page,
    serve_folder,
    stall,
    status,
    trickle,
)
from helpers.images import write_image
from helpers.project import Project
from helpers.running import Run
from image_classifier.common.errors import InputError
from image_classifier.common.params import DownloadParams
from image_classifier.sources import datasets


def counts(folder: Path) -> dict[str, int]:
    return {path.name: len(list(path.iterdir())) for path in sorted(folder.iterdir())}


def test_digits_are_class_folders_of_pngs(project: Project):
    project.set_params({"download": {"dataset": "digits", "source": None}})
    project.run("python", "src/download.py")
    # Counts from the dataset's description.
    expected = dict(
        zip("0123456789", [178, 182, 177, 183, 181, 182, 181, 179, 174, 180], strict=True)
    )
    assert counts(project.root / "data/raw") == expected
    with Image.open(next((project.root / "data/raw/0").iterdir())) as image:
        assert (image.mode, image.size, image.getextrema()) == ("L", (8, 8), (0, 255))
    assert not project.unreadable()


def test_own_images_from_a_folder_an_archive_and_a_url(
    project: Project, images: Path, tmp_path: Path
):
    archive = shutil.make_archive(str(tmp_path / "served" / "images"), "zip", images)
    raw = []
    with serve_folder(tmp_path / "served") as address:
        for source in (str(images), archive, f"{address}/images.zip"):
            project.download(source)
            raw.append(project.files("data/raw"))
    assert len(raw[0]) == 90
    assert raw[0] == raw[1] == raw[2]


def test_damaged_images_are_skipped_and_listed(project: Project, images: Path, tmp_path: Path):
    source = shutil.copytree(images, tmp_path / "source")
    (source / "red/notes.txt").write_text("no image")
    (source / "red/30.png").write_bytes((source / "red/00.png").read_bytes()[:500])
    (source / "blue/a, b.png").touch()
    assert "3 files left out" in project.download(source).stdout
    reasons = project.unreadable()
    assert list(reasons) == ["blue/a, b.png", "red/30.png", "red/notes.txt"]
    assert all(reasons.values())
    assert counts(project.root / "data/raw") == {"blue": 30, "green": 30, "red": 30}


def test_images_outside_the_class_folders_are_counted(
    project: Project, images: Path, tmp_path: Path
):
    source = shutil.copytree(images, tmp_path / "source")
    shutil.copytree(source / "red", source / ".white")
    shutil.copy(source / "red/00.png", source / "cover.png")
    left_out = (
        "left out: 1 image outside the class folders, such as 'cover.png'; "
        "30 images in 1 folder whose name begins with a dot, such as '.white'"
    )
    found = ["data/raw: 90 images in 3 classes"]
    assert project.download(source).stdout.splitlines() == [left_out, *found]
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", source)
    assert project.download(archive).stdout.splitlines() == [left_out, *found]
    assert project.download(images).stdout.splitlines() == found


@pytest.mark.parametrize(
    ("counts", "printed"),
    [
        ({("", "cats"): 1000, ("", "dogs"): 797}, "1,797 images in 2 classes"),
        (
            {("validation", "cats"): 5, ("train", "cats"): 20, ("train", "dogs"): 10},
            "35 images in 2 classes (30 train, 5 validation)",
        ),
    ],
)
def test_the_data_are_summarised_in_a_line(counts: dict[tuple[str, str], int], printed: str):
    assert download.describe(counts) == printed


def test_a_class_without_images_is_an_error_and_the_old_data_are_kept(
    project: Project, images: Path, tmp_path: Path
):
    project.run("python", "src/download.py")
    before = project.files("data")
    source = shutil.copytree(images, tmp_path / "source")
    for path in (source / "red").iterdir():
        path.write_bytes(b"damaged")
    done = project.download(source, fails=True)
    assert done.stderr.splitlines()[-1].startswith("error: download: red has no image")
    assert "red/00.png" in done.stderr and "Traceback" not in done.stderr
    assert project.files("data") == before


FASHION = {
    "train-images-idx3-ubyte": bytes(16) + np.arange(30 * 784).astype(np.uint8).tobytes(),
    "train-labels-idx1-ubyte": bytes(8) + bytes(list(range(10)) * 3),
    "t10k-images-idx3-ubyte": bytes(16) + np.arange(10 * 784).astype(np.uint8).tobytes(),
    "t10k-labels-idx1-ubyte": bytes(8) + bytes(range(10)),
}


@pytest.fixture
def fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files in Fashion-MNIST's format; their sha256 replace the real ones."""
    for name, content in FASHION.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(datasets.FASHION_MNIST_FILES, name, digest)
    return tmp_path


def write_fashion_mnist(source: str, folder: Path) -> None:
    params = DownloadParams(dataset="fashion_mnist", source=source, sha256=None)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    datasets.write_fashion_mnist(params, folder / "raw", scratch)


def test_fashion_mnist_keeps_its_test_split(fashion_mnist: Path):
    write_fashion_mnist(str(fashion_mnist), fashion_mnist / "out")
    raw = fashion_mnist / "out/raw"
    assert set(counts(raw / "train").values()) == {3} and set(counts(raw / "test").values()) == {1}
    with Image.open(raw / "train/Ankle boot/09.png") as image:
        pixels = np.arange(9 * 784, 10 * 784).astype(np.uint8).reshape(28, 28)
        assert np.array_equal(np.asarray(image), pixels)


def test_fashion_mnist_from_another_address(fashion_mnist: Path):
    with serve_folder(fashion_mnist) as address:
        write_fashion_mnist(f"{address}/", fashion_mnist / "out")
    assert len(counts(fashion_mnist / "out/raw/train")) == 10


def test_other_contents_than_fashion_mnist_are_refused(fashion_mnist: Path):
    changed = bytes(8) + bytes(10)
    (fashion_mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(changed))
    with pytest.raises(InputError, match="its content differs from Fashion-MNIST's t10k-lab"):
        write_fashion_mnist(str(fashion_mnist), fashion_mnist / "out")
    (fashion_mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="has neither t10k-labels-idx1-ubyte nor"):
        write_fashion_mnist(str(fashion_mnist), fashion_mnist / "out2")


@pytest.fixture(scope="module")
def archive(images: Path) -> bytes:
    """The images in a zip archive with the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(images.rglob("*.png")):
            file.write(path, path.relative_to(images))
    return buffer.getvalue()


@pytest.fixture
def server(archive: bytes) -> Iterator[FileServer]:
    with file_server(archive) as server:
        yield server


@pytest.fixture
def old_data(project: Project, tmp_path: Path, images: Path) -> dict[str, bytes]:
    """The files of an earlier run below data."""
    fewer = shutil.copytree(images, tmp_path / "fewer", ignore=shutil.ignore_patterns("2*"))
    project.download(fewer)
    return project.files("data")


def assert_untouched(project: Project, old_data: dict[str, bytes]) -> None:
    """Nothing below data has changed, except a partial download under a temporary name."""
    files = project.files("data")
    new = {Path(name).name for name in files if name.startswith("data/.download/")}
    assert new <= {"lock", "archive.partial", "archive.json"}
    files = {name: files[name] for name in files if not name.startswith("data/.download/")}
    assert files == old_data


def error_line(stderr: str) -> str:
    """The only line other than those that show the progress of a long download."""
    (line,) = (line for line in stderr.splitlines() if not line.startswith("downloading"))
    return line


network = partial(faulty, "Network")
OLD_KEPT = "one-line error with the address and a remedy; old data are kept"
WEB_PAGE = page(b"\n<!DOCTYPE html><html><body>Please log in</body></html>")
LONG = [pytest.mark.exhaustive]


@pytest.mark.parametrize(
    ("always", "reason"),
    [
        network("404", OLD_KEPT, status(404), "(404 Not Found)"),
        network("connection cut every time", OLD_KEPT, cut(1000), "4,000 of "),
        network(
            "a web page instead of an archive", OLD_KEPT, WEB_PAGE, "is a web page, not an archive"
        ),
        network(
            "half of the file, announced as the whole",
            OLD_KEPT,
            lambda request: request.answer(limit=10_000, length=10_000),
            "is neither a zip nor a tar archive",
        ),
        network(
            *("stall of 30 seconds every time", OLD_KEPT),
            *(stall(1000), "no data arrived for 30 seconds"),
            marks=LONG,
        ),
        network(
            *("a byte per second every time", OLD_KEPT),
            *(trickle(1), "slower than 1,000 bytes per second"),
            marks=LONG,
        ),
    ],
)
def test_a_failed_download_keeps_the_old_data(
    project: Project, old_data: dict[str, bytes], server: FileServer, always: Fault, reason: str
):
    server.always = always
    line = error_line(project.download(server.url, fails=True).stderr)
    assert line.startswith(f"error: {server.url} ") and reason in line
    assert line.endswith("set download.source to another location")
    assert_untouched(project, old_data)

    server.always = None  # the server works again, and the same command succeeds
    project.run("python", "src/download.py")
    assert len(project.files("data/raw")) == 90
    assert not (project.root / "data/.download").exists()


@pytest.mark.fault("Network", "connection refused", OLD_KEPT)
def test_a_refused_connection_keeps_the_old_data(project: Project, old_data: dict[str, bytes]):
    with nobody_listens() as address:
        line = error_line(project.download(f"{address}/pets.zip", fails=True).stderr)
    assert (
        line.startswith(f"error: {address}/pets.zip could not be downloaded (")
        and "refused" in line
    )
    assert_untouched(project, old_data)


@pytest.mark.fault("Network", "wrong checksum", OLD_KEPT)
def test_a_wrong_checksum_keeps_the_old_data(
    project: Project, old_data: dict[str, bytes], server: FileServer
):
    line = error_line(project.download(server.url, fails=True, sha256="0" * 64).stderr)
    assert line.startswith(f"error: download.sha256: {server.url} has ")
    assert line.endswith("correct it, or set download.source to another location")
    assert project.files("data") == old_data


def kill_when(project: Project, reached: Callable[[], bool]) -> None:
    """Start the download, and kill it with SIGKILL once `reached` returns true."""
    with Run(project, ("python", "src/download.py")) as run:
        run.wait_for(reached)
    assert run.process.returncode == -signal.SIGKILL


@pytest.mark.fault("Process", "kill -9 in the middle of a download", "the same command resumes")
def test_a_killed_download_resumes(
    project: Project, old_data: dict[str, bytes], server: FileServer, images: Path
):
    half = len(server.content) // 2
    partial = project.root / "data/.download/downloaded/archive.partial"
    server.faults = [stall(half)]
    project.set_params({"download": {"source": server.url}})
    kill_when(project, lambda: partial.exists() and partial.stat().st_size == half)
    assert_untouched(project, old_data)
    assert project.run("git", "status", "--short", "data").stdout == ""

    project.run("python", "src/download.py")
    assert server.ranges_asked == [None, f"bytes={half}-"]
    assert server.sent == len(server.content)
    interrupted = project.files("data")
    project.download(images)
    assert interrupted == project.files("data")


@pytest.mark.exhaustive
@pytest.mark.fault("Process", "kill -9 at any moment of a download", "the same command resumes")
def test_a_run_killed_again_and_again_ends_with_the_same_data(
    project: Project, server: FileServer, images: Path, record_property: Callable
):
    moments = np.random.default_rng(0).uniform(0.5, 4, 15)
    server.always = lambda request: request.answer(limit=len(server.content) // 4)
    project.set_params({"download": {"source": server.url}})
    killed = 0
    for seconds in moments:
        command = ["timeout", "-s", "KILL", str(seconds), "python", "src/download.py"]
        done = subprocess.run(command, cwd=project.root, env=project.environment)
        killed += done.returncode != 0
        # Either all data or none; the list of unreadable files is written last.
        assert len(project.files("data/raw")) in (0, 90)
        if (project.root / "data/unreadable.csv").exists():
            assert len(project.files("data/raw")) == 90
    assert killed > len(moments) / 2
    record_property("injections", killed)
    server.always = None
    project.run("python", "src/download.py")
    interrupted = project.files("data")
    project.download(images)
    assert interrupted == project.files("data")


class Killed(BaseException):
    """Acts like a kill at this point: nothing catches it."""


@pytest.mark.fault(
    "Process",
    "killed before or after each rename of the data",
    "either the old or the new data, complete",
)
def test_data_are_never_partly_replaced(
    project: Project, images: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
):
    monkeypatch.chdir(project.root)
    download.main()
    old = project.files("data/raw")
    for name, color in (("black", (0, 0, 0)), ("white", (255, 255, 255))):
        write_image(project.root / "other" / name / "0.png", color, seed=0)
    for moment in range(6):
        calls = itertools.count()

        def rename(path: Path, target: Path, calls=calls, moment=moment) -> None:
            if next(calls) == moment:
                raise Killed
            path.replace(target)
            if next(calls) == moment:
                raise Killed

        project.set_params({"download": {"source": "other"}})
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Path, "rename", rename)
            download.main()
        assert len(project.files("data/raw")) in (0, 2, len(old))

        # Even a failing run first repairs the data of a killed one.
        project.set_params({"download": {"source": "nowhere"}})
        with pytest.raises(InputError, match="nowhere not found"):
            download.main()
        found = project.files("data/raw")
        assert found == old if moment < 3 else len(found) == 2, moment
        assert not (project.root / "data/.download").exists()

        project.set_params({"download": {"source": str(images)}})
        download.main()
        assert project.files("data/raw") == old
    record_property("injections", 6)


def test_two_downloads_at_once_are_refused(project: Project, server: FileServer):
    server.faults = [stall(1000)]
    project.set_params({"download": {"source": server.url}})

    def second_is_refused() -> bool:
        if not server.requests:
            return False
        line = error_line(project.run("python", "src/download.py", fails=True).stderr)
        assert line == "error: data/.download: another src/download.py is running; wait for it"
        return True

    kill_when(project, second_is_refused)


@pytest.mark.fault("Disk", "full in the middle of a download", OLD_KEPT)
def test_a_full_disk_keeps_the_old_data(
    project: Project, old_data: dict[str, bytes], server: FileServer
):
    """A limit on file sizes acts like a full disk: Python gets an error of the same kind."""
    server.faults = [cut(60_000)]
    project.set_params({"download": {"source": server.url}})
    command = "ulimit -f 64; exec python src/download.py"  # blocks of 1 KiB
    line = error_line(project.run("bash", "-c", command, fails=True).stderr)
    missing = (len(server.content) - 64 * 1024) / 1000
    assert line.startswith("error: data/.download/downloaded/archive.partial: File too large")
    assert f" ({missing:.1f} kB needed, " in line
    assert_untouched(project, old_data)
    project.run("python", "src/download.py")
    assert server.sent < len(server.content) + (
        1 << 17
    )  # sent by the server before the disk was full
    assert len(project.files("data/raw")) == 90


def test_fashion_mnist_resumes_with_the_missing_files(fashion_mnist: Path):
    with file_server(b"") as server:
        names = list(FASHION)

        def answer(request: Request) -> None:
            name = Path(request.path).name
            server.content = (fashion_mnist / name).read_bytes()
            missing = name.startswith(names[3]) and len(server.requests) == 4
            status(404)(request) if missing else request.answer()

        server.always = answer
        with pytest.raises(InputError, match=rf"{names[3]}\.gz could not be downloaded"):
            write_fashion_mnist(server.address, fashion_mnist / "out")
        write_fashion_mnist(server.address, fashion_mnist / "out")
    assert len(server.requests) == 5
    assert len(counts(fashion_mnist / "out/raw/train")) == 10


@pytest.mark.fault("Network", "a web page instead of a file of Fashion-MNIST", OLD_KEPT)
def test_a_web_page_instead_of_fashion_mnist(project: Project, server: FileServer):
    server.always = WEB_PAGE
    done = project.download(f"{server.address}/", fails=True, dataset="fashion_mnist")
    line = error_line(done.stderr)
    assert line.startswith(f"error: {server.address}/train-images-idx3-ubyte.gz: Not a gzipped")
    assert line.endswith("; set download.source to another location")
    assert not project.files("data/raw", "data/.download")
