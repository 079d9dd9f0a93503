"""Bad data as people have it, all at once, through `src/download.py` and `src/prepare.py`."""

import os
import shutil
import socket
import struct
import subprocess
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from helpers.fault_table import faulty
from helpers.images import encoded, noisy_image
from helpers.project import Project, one_error

ORIENTATION = 0x0112  # the EXIF tag


def rotated() -> bytes:
    image = noisy_image(1)
    exif = image.getexif()
    exif[ORIENTATION] = 6
    return encoded(image, "JPEG", exif=exif)


def damaged_exif() -> bytes:
    tag = struct.pack("<HHII", ORIENTATION, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return encoded(noisy_image(2), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x20\0" + tag)


def several(kind: str, *seeds: int) -> bytes:
    first, *others = (noisy_image(seed) for seed in seeds)
    return encoded(first, kind, save_all=True, append_images=others)


def flat_png(side: int) -> bytes:
    """A black PNG of `side` x `side` pixels, a few kilobytes in size."""
    return encoded(Image.new("1", (side, side)))


def changed_png(chunk: bytes) -> bytes:
    """A PNG with a changed byte in a chunk, which no longer has its checksum."""
    content = bytearray(encoded(noisy_image(9)))
    content[content.index(chunk) + 20] ^= 255
    return bytes(content)


def enormous_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)
    return encoded(noisy_image(10), pnginfo=text)


JPEG = encoded(noisy_image(11), "JPEG")
PALETTE = noisy_image(14).convert("P")
FLOATS = np.random.default_rng(0).random((9, 9), np.float32)
SIXTEEN_BITS = np.arange(576, dtype=np.uint16).reshape(24, 24) * 100
data = partial(faulty, "Data")
LEFT_OUT = "skipped, listed with the reason"

# Description -> file name, contents.
GOOD = {
    "CMYK": ("cmyk.jpg", encoded(noisy_image(12).convert("CMYK"), "JPEG")),
    "16-bit": ("sixteen.png", encoded(Image.fromarray(SIXTEEN_BITS))),
    "grayscale": ("gray.jpg", encoded(noisy_image(13).convert("L"), "JPEG")),
    "palette": ("palette.png", encoded(PALETTE)),
    "palette with transparency": ("clear.png", encoded(PALETTE, transparency=bytes(range(256)))),
    "transparency": ("rgba.png", encoded(noisy_image(15).convert("RGBA"))),
    "grayscale with transparency": ("la.png", encoded(noisy_image(16).convert("LA"))),
    "animated GIF": ("moving.gif", several("GIF", 3, 4, 5)),
    "TIFF with several pages": ("pages.tiff", several("TIFF", 6, 7)),
    "3D photo of a phone (MPO)": ("phone.jpg", encoded(noisy_image(17), "MPO")),
    "BMP": ("a.bmp", encoded(noisy_image(18), "BMP")),
    "WebP": ("a.webp", encoded(noisy_image(35), "WEBP")),
    "AVIF": ("a.avif", encoded(noisy_image(36), "AVIF")),
    "JPEG 2000": ("a.jp2", encoded(noisy_image(37), "JPEG2000")),
    "EXIF rotation": ("rotated.jpg", rotated()),
    "damaged EXIF data": ("exif.jpg", damaged_exif()),
    "1x1 pixels": ("dot.png", encoded(noisy_image(19, (1, 1)))),
    "100 million pixels": ("large.png", flat_png(10_000)),
    "wrong extension": ("png called.jpg", encoded(noisy_image(20))),
    "upper-case extension": ("CAPITALS.JPG", encoded(noisy_image(21), "JPEG")),
    "no extension": ("nothing", encoded(noisy_image(22), "JPEG")),
    "bytes after the end of a JPEG": ("trailing.jpg", JPEG + b"trailing" * 99),
    "Unicode and spaces in the name": ("ein Bild, größer.png", encoded(noisy_image(23))),
    "emoji in the name": ("\U0001f431.png", encoded(noisy_image(24))),
    "the same name composed": ("caf\u00e9.png", encoded(noisy_image(25))),
    "the same name decomposed": ("cafe\u0301.png", encoded(noisy_image(26))),
    "line break in the name": ("two\nlines\r.png", encoded(noisy_image(27))),
    "leading dash in the name": ("-rf.png", encoded(noisy_image(28))),
    "name of 255 bytes": ("x" * 251 + ".png", encoded(noisy_image(29))),
    "name of a Windows device": ("CON.png", encoded(noisy_image(30))),
    "names that differ in case only": ("con.png", encoded(noisy_image(31))),
    "quotes and commas in the name": ('"a", b.png', encoded(noisy_image(32))),
    "folder in a class folder": ("deep/er/1.png", encoded(noisy_image(33))),
}
BAD = {
    "truncated": ("truncated.jpg", JPEG[: len(JPEG) // 2]),
    "truncated by ten bytes": ("truncated by ten.jpg", JPEG[:-10]),
    "zero bytes": ("empty.jpg", b""),
    "text called .jpg": ("text.jpg", b"no image"),
    "web page called .jpg": ("page.jpg", b"<!doctype html><html></html>"),
    "zeros": ("zeros.jpg", bytes(10_000)),
    "20,000x20,000 pixels": ("bomb.png", flat_png(20_000)),
    "PNG with a damaged chunk": ("chunk.png", changed_png(b"IDAT")),
    "PNG with an enormous text": ("enormous.png", enormous_text()),
    "HEIC": ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(99)),
    "SVG": ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "EPS, which Pillow would give to another program": ("a.jpg", encoded(noisy_image(34), "EPS")),
    "32-bit floats": ("float.tiff", encoded(Image.fromarray(FLOATS), "TIFF")),
    "archive among the images": ("more.zip", b"PK\x05\x06" + bytes(18)),
    "Thumbs.db": ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(99)),
    "desktop.ini": ("desktop.ini", b"[ViewState]"),
}
HIDDEN = [".DS_Store", "._cat.jpg", "__MACOSX/cat.jpg", ".hidden/cat.jpg"]


@pytest.fixture(scope="module")
def downloaded(
    make_project: Callable[[Path], Project],
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Project, subprocess.CompletedProcess]:
    """A project with three downloaded and prepared classes, one of which has all these files."""
    source = shutil.copytree(images, tmp_path_factory.mktemp("bad data") / "images")
    for name, content in [*GOOD.values(), *BAD.values(), *((name, JPEG) for name in HIDDEN)]:
        path = source / "red" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.mkfifo(source / "red/pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(source / "red/socket.jpg"))
    (source / "red/nowhere.jpg").symlink_to("nowhere")
    (source / "red/linked.png").symlink_to("00.png")
    (source / "red/loop").symlink_to(source)
    (source / "loop").symlink_to(".")
    (source / "itself").symlink_to("itself")
    project = make_project(tmp_path_factory.mktemp("project"))
    return project, project.download(source)


@pytest.mark.parametrize("name", [data(what, "used", name) for what, (name, _) in GOOD.items()])
def test_good_files_are_used(downloaded, name: str):
    project, _ = downloaded
    assert (project.root / "data/raw/red" / name).is_file()
    assert f"red/{name}" not in project.unreadable()


@pytest.mark.parametrize("name", [data(what, LEFT_OUT, name) for what, (name, _) in BAD.items()])
def test_bad_files_are_skipped_and_listed(downloaded, name: str):
    project, _ = downloaded
    assert not (project.root / "data/raw/red" / name).exists()
    reason = project.unreadable()[f"red/{name}"]
    assert reason and len(reason.splitlines()) == 1 and str(project.root) not in reason


@pytest.mark.fault("Data", "hidden files and __MACOSX", "ignored")
def test_hidden_files_are_ignored(downloaded, record_property):
    record_property("injections", len(HIDDEN))
    project, _ = downloaded
    files = project.files("data/raw")
    assert not [name for name in files if "/." in name or "__MACOSX" in name]
    assert not {f"red/{name}" for name in HIDDEN} & set(project.unreadable())


@pytest.mark.fault("Data", "pipe, socket, link to nowhere, link in a circle", "ignored")
def test_special_files_are_ignored(downloaded, record_property):
    record_property("injections", 6)
    project, _ = downloaded
    classes = sorted(path.name for path in (project.root / "data/raw").iterdir())
    assert classes == ["blue", "green", "red"]
    assert len(project.files("data/raw")) == 90 + len(GOOD) + 1
    assert (project.root / "data/raw/red/linked.png").is_file()


def test_there_are_no_other_messages(downloaded):
    project, done = downloaded
    assert not done.stderr
    assert f"{len(BAD)} files left out" in done.stdout
    assert len(project.unreadable()) == len(BAD)


def test_all_good_files_can_be_prepared(downloaded):
    project, _ = downloaded
    assert not project.run("python", "src/prepare.py").stderr
    names = {row["path"] for row in project.rows("data/prepared/images.csv")}
    assert {f"red/{name}" for name, _ in GOOD.values()} <= names
    for split in ("train", "test"):
        array = np.load(project.root / f"data/prepared/{split}-00000.npy")
        assert array.shape[2:] == (16, 16, 3)


@pytest.mark.fault(
    "Data",
    "Kaggle's PetImages, with its damaged files and readme",
    "used; damaged images are listed",
)
def test_pet_images(project: Project, tmp_path: Path):
    archive = tmp_path / "kagglecatsanddogs.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for number, kind in enumerate(("Cat", "Dog")):
            for index in range(20):
                image = noisy_image(100 * number + index)
                target.writestr(f"PetImages/{kind}/{index}.jpg", encoded(image, "JPEG"))
            target.writestr(f"PetImages/{kind}/Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(99))
        target.writestr("PetImages/Cat/666.jpg", b"")
        target.writestr("PetImages/Dog/11702.jpg", b"")
        target.writestr("PetImages/Cat/10404.jpg", JPEG[:300])
        target.writestr("PetImages/Dog/9500.jpg", encoded(noisy_image(1000), "GIF"))
        target.writestr("PetImages/Dog/11233.jpg", encoded(noisy_image(1001), "BMP"))
        target.writestr("readme[1].txt", "terms")
        target.writestr("MSR-LA - 3467.docx", b"PK")
    assert "5 files left out" in project.download(archive).stdout
    cats = ["Cat/10404.jpg", "Cat/666.jpg", "Cat/Thumbs.db"]
    assert list(project.unreadable()) == [*cats, "Dog/11702.jpg", "Dog/Thumbs.db"]
    assert len(project.files("data/raw/Cat")) == 20 and len(project.files("data/raw/Dog")) == 22


def refused(what: str, *values: str) -> object:
    return data(what, "refused with a one-line error", *values)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        refused("empty class", "empty", "green has no image that can be decoded (the folder is"),
        refused("class with damaged images only", "damaged", "green has no image that can be"),
        refused("one class only", "one", "found 1 class folders; allowed: two or more"),
        refused("no class", "none", "found 0 class folders; allowed: two or more"),
        refused("archive in an archive", "nested", "found 0 class folders; allowed: two or more"),
        refused("archive with a name that is not UTF-8", "bytes", "is not UTF-8; rename it"),
    ],
)
def test_invalid_datasets_are_refused(
    project: Project, images: Path, tmp_path: Path, case: str, message: str
):
    source = shutil.copytree(images, tmp_path / "source")
    if case == "empty":
        shutil.rmtree(source / "green")
        (source / "green/deep").mkdir(parents=True)
    elif case == "damaged":
        for file in (source / "green").iterdir():
            file.write_bytes(b"damaged")
    elif case == "one":
        shutil.rmtree(source / "green")
        shutil.rmtree(source / "blue")
    elif case == "none":
        for file in (source / "green").iterdir():
            file.rename(source / file.name)
        for folder in ("blue", "green", "red"):
            shutil.rmtree(source / folder)
    elif case == "nested":
        inner = shutil.make_archive(str(tmp_path / "inner/images"), "zip", source)
        source = Path(shutil.make_archive(str(tmp_path / "outer"), "tar", Path(inner).parent))
    else:
        Path(os.fsdecode(bytes(source) + b"/red/gr\xfc\xdf.png")).write_bytes(JPEG)
        source = Path(shutil.make_archive(str(tmp_path / "latin"), "tar", source))
    done = project.download(source, fails=True)
    (line,) = done.stderr.splitlines()
    assert message in line and line == one_error(done.stderr) and not done.stdout
    assert not (project.root / "data/raw").exists()


@pytest.mark.fault(
    "Data", "the same image in two classes", "excluded from all splits, listed in images.csv"
)
def test_an_image_in_two_classes_is_not_used(project: Project, images: Path, tmp_path: Path):
    source = shutil.copytree(images, tmp_path / "source")
    shutil.copy(source / "red/00.png", source / "blue/twin.png")
    project.download(source)
    printed = project.run("python", "src/prepare.py").stdout.splitlines()
    place = "see 'contradiction' in data/prepared/images.csv"
    assert printed[1:] == [f"2 images left out: found in more than one class, {place}"]
    splits = project.splits()
    assert splits["red/00.png"] == splits["blue/twin.png"] == "contradiction"


@pytest.mark.fault("Data", "image damaged after the download", "one-line error that names the file")
def test_an_image_damaged_after_the_download_is_named(project: Project, images: Path):
    project.download(images)
    (project.root / "data/raw/red/00.png").write_bytes(b"damaged")
    line = project.error("python", "src/prepare.py")
    assert line.startswith("error: data/raw/red/00.png: cannot identify image file")
    assert not (project.root / "data/prepared").exists()


@pytest.mark.fault("Data", "no data/raw", "one-line error that names the folder")
def test_without_a_download_there_is_nothing_to_prepare(project: Project):
    (line,) = project.run("python", "src/prepare.py", fails=True).stderr.splitlines()
    assert line.startswith("error: data/raw not found")
