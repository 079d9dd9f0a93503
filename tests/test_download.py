"""src/download.py and the datasets that it can bring."""

import csv
import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Project, serve_folder
from image_classifier import datasets
from image_classifier.errors import InputError
from image_classifier.params import DownloadParams


def unreadable(project: Project) -> dict[str, str]:
    with (project.root / "data/unreadable.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def counts(folder: Path) -> dict[str, int]:
    return {path.name: len(list(path.iterdir())) for path in sorted(folder.iterdir())}


def test_digits_are_class_folders_of_pngs(project: Project):
    project.set_params({"download": {"dataset": "digits", "source": None}})
    project.run("python", "src/download.py")
    # The counts that the dataset's description gives.
    expected = dict(
        zip("0123456789", [178, 182, 177, 183, 181, 182, 181, 179, 174, 180], strict=True)
    )
    assert counts(project.root / "data/raw") == expected
    with Image.open(next((project.root / "data/raw/0").iterdir())) as image:
        assert (image.mode, image.size, image.getextrema()) == ("L", (8, 8), (0, 255))
    assert not unreadable(project)


def test_own_pictures_from_a_folder_an_archive_and_a_url(
    project: Project, pictures: Path, tmp_path: Path
):
    archive = shutil.make_archive(str(tmp_path / "served" / "pictures"), "zip", pictures)
    raw = []
    with serve_folder(tmp_path / "served") as address:
        for source in (str(pictures), archive, f"{address}/pictures.zip"):
            project.set_params({"download": {"source": source}})
            project.run("python", "src/download.py")
            raw.append(project.files("data/raw"))
    assert len(raw[0]) == 90
    assert raw[0] == raw[1] == raw[2]


def test_damaged_pictures_are_left_out_and_listed(project: Project, pictures: Path, tmp_path: Path):
    source = shutil.copytree(pictures, tmp_path / "source")
    (source / "red/notes.txt").write_text("no picture")
    (source / "red/30.png").write_bytes((source / "red/00.png").read_bytes()[:500])
    (source / "blue/a, b.png").touch()
    project.set_params({"download": {"source": str(source)}})
    done = project.run("python", "src/download.py")
    assert "3 files left out" in done.stdout
    reasons = unreadable(project)
    assert list(reasons) == ["blue/a, b.png", "red/30.png", "red/notes.txt"]
    assert all(reasons.values())
    assert counts(project.root / "data/raw") == {"blue": 30, "green": 30, "red": 30}


def test_a_class_without_pictures_is_an_error_and_the_old_data_stay(
    project: Project, pictures: Path, tmp_path: Path
):
    project.run("python", "src/download.py")
    before = project.files("data")
    source = shutil.copytree(pictures, tmp_path / "source")
    for path in (source / "red").iterdir():
        path.write_bytes(b"damaged")
    project.set_params({"download": {"source": str(source)}})
    done = project.run("python", "src/download.py", fails=True)
    assert done.stderr.splitlines()[-1].startswith("error: download: red has no picture")
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
    """A folder with files of Fashion-MNIST's form, and their sha256 in place of the real ones."""
    for name, content in FASHION.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(datasets.FASHION_MNIST_FILES, name, digest)
    return tmp_path


def write_fashion_mnist(source: str, folder: Path) -> None:
    params = DownloadParams(dataset="fashion_mnist", source=source, sha256=None)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
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
    with pytest.raises(InputError, match="its contents are not those of Fashion-MNIST's t10k-lab"):
        write_fashion_mnist(str(fashion_mnist), fashion_mnist / "out")
    (fashion_mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="has neither t10k-labels-idx1-ubyte nor"):
        write_fashion_mnist(str(fashion_mnist), fashion_mnist / "out2")
