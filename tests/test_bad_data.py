"""Bad data as people have it, all at once, brought in by `src/download.py` and `src/prepare.py`."""

import csv
import os
import shutil
import socket
import struct
import subprocess
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from conftest import Project

ORIENTATION = 0x0112  # the EXIF tag


def picture(seed: int, size: int = 24) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3))
    return Image.fromarray(noise.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    image = picture(1)
    exif = image.getexif()
    exif[ORIENTATION] = 6
    return encoded(image, "JPEG", exif=exif)


def damaged_exif() -> bytes:
    tag = struct.pack("<HHII", ORIENTATION, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return encoded(picture(2), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x20\0" + tag)


def animation() -> bytes:
    frames = [picture(seed) for seed in (3, 4, 5)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def pages() -> bytes:
    frames = [picture(seed) for seed in (6, 7)]
    return encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])


def transparent_palette() -> bytes:
    palette = picture(8).convert("P")
    return encoded(palette, "PNG", transparency=bytes(range(256)))


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24) * 100), "PNG")


def flat_png(side: int) -> bytes:
    """A black PNG of `side` times `side` pixels in a few kilobytes."""
    return encoded(Image.new("1", (side, side)), "PNG")


def changed_png(chunk: bytes) -> bytes:
    """A PNG with a byte changed in a chunk, whose checksum then tells."""
    content = bytearray(encoded(picture(9), "PNG"))
    content[content.index(chunk) + 20] ^= 255
    return bytes(content)


def enormous_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)
    return encoded(picture(10), "PNG", pnginfo=text)


JPEG = encoded(picture(11), "JPEG")
USED = "used"
LEFT_OUT = "left out, listed with its reason"

# What it is -> its name, its bytes.
GOOD = {
    "CMYK": ("cmyk.jpg", encoded(picture(12).convert("CMYK"), "JPEG")),
    "16-bit": ("sixteen.png", sixteen_bits()),
    "grayscale": ("gray.jpg", encoded(picture(13).convert("L"), "JPEG")),
    "palette": ("palette.png", encoded(picture(14).convert("P"), "PNG")),
    "palette with transparency": ("transparent.png", transparent_palette()),
    "transparency": ("rgba.png", encoded(picture(15).convert("RGBA"), "PNG")),
    "grayscale with transparency": ("la.png", encoded(picture(16).convert("LA"), "PNG")),
    "animated GIF": ("moving.gif", animation()),
    "TIFF with several pages": ("pages.tiff", pages()),
    "photo of a phone in three dimensions (MPO)": ("phone.jpg", encoded(picture(17), "MPO")),
    "BMP": ("a.bmp", encoded(picture(18), "BMP")),
    "WebP": ("a.webp", encoded(picture(35), "WEBP")),
    "AVIF": ("a.avif", encoded(picture(36), "AVIF")),
    "JPEG 2000": ("a.jp2", encoded(picture(37), "JPEG2000")),
    "EXIF rotation": ("rotated.jpg", rotated()),
    "damaged EXIF data": ("exif.jpg", damaged_exif()),
    "1x1 pixels": ("dot.png", encoded(picture(19, size=1), "PNG")),
    "100 million pixels": ("large.png", flat_png(10_000)),
    "wrong extension": ("png called.jpg", encoded(picture(20), "PNG")),
    "extension in capitals": ("CAPITALS.JPG", encoded(picture(21), "JPEG")),
    "no extension": ("nothing", encoded(picture(22), "JPEG")),
    "bytes after the end of a JPEG": ("trailing.jpg", JPEG + b"trailing" * 99),
    "Unicode and spaces in the name": ("ein Bild, größer.png", encoded(picture(23), "PNG")),
    "emoji in the name": ("\U0001f431.png", encoded(picture(24), "PNG")),
    "the same name composed": ("caf\u00e9.png", encoded(picture(25), "PNG")),
    "the same name decomposed": ("cafe\u0301.png", encoded(picture(26), "PNG")),
    "line break in the name": ("two\nlines\r.png", encoded(picture(27), "PNG")),
    "leading dash in the name": ("-rf.png", encoded(picture(28), "PNG")),
    "name of 255 bytes": ("x" * 251 + ".png", encoded(picture(29), "PNG")),
    "name of a Windows device": ("CON.png", encoded(picture(30), "PNG")),
    "names that differ in case only": ("con.png", encoded(picture(31), "PNG")),
    "quotes and commas in the name": ('"a", b.png', encoded(picture(32), "PNG")),
    "folder in a class folder": ("deep/er/1.png", encoded(picture(33), "PNG")),
}
BAD = {
    "truncated": ("truncated.jpg", JPEG[: len(JPEG) // 2]),
    "truncated by ten bytes": ("truncated by ten.jpg", JPEG[:-10]),
    "zero bytes": ("empty.jpg", b""),
    "text called .jpg": ("text.jpg", b"no picture"),
    "web page called .jpg": ("page.jpg", b"<!doctype html><html></html>"),
    "zeros": ("zeros.jpg", bytes(10_000)),
    "20,000x20,000 pixels": ("bomb.png", flat_png(20_000)),
    "PNG with a damaged chunk": ("chunk.png", changed_png(b"IDAT")),
    "PNG with an enormous text": ("enormous.png", enormous_text()),
    "HEIC": ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(99)),
    "SVG": ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "EPS, which Pillow would give to another program": (
        "program.jpg",
        encoded(picture(34), "EPS"),
    ),
    "32-bit floats": (
        "float.tiff",
        encoded(Image.fromarray(np.random.default_rng(0).random((9, 9), np.float32)), "TIFF"),
    ),
    "archive among the pictures": ("more.zip", b"PK\x05\x06" + bytes(18)),
    "Thumbs.db": ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(99)),
    "desktop.ini": ("desktop.ini", b"[ViewState]"),
}
HIDDEN = [".DS_Store", "._cat.jpg", "__MACOSX/cat.jpg", ".hidden/cat.jpg"]


@pytest.fixture(scope="module")
def downloaded(
    make_project: Callable[[Path], Project],
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Project, subprocess.CompletedProcess]:
    """A project that has downloaded and prepared three classes, one with all of these files."""
    source = shutil.copytree(pictures, tmp_path_factory.mktemp("bad data") / "pictures")
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
    project.set_params({"download": {"source": str(source)}})
    return project, project.run("python", "src/download.py")


def listed(project: Project) -> dict[str, str]:
    with (project.root / "data/unreadable.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def kinds(files: dict, outcome: str) -> list:
    return [
        pytest.param(name, id=what, marks=pytest.mark.fault("Data", what, outcome))
        for what, (name, _) in files.items()
    ]


@pytest.mark.parametrize("name", kinds(GOOD, USED))
def test_it_is_used(downloaded, name: str):
    project, _ = downloaded
    assert (project.root / "data/raw/red" / name).is_file()
    assert f"red/{name}" not in listed(project)


@pytest.mark.parametrize("name", kinds(BAD, LEFT_OUT))
def test_it_is_left_out(downloaded, name: str):
    project, _ = downloaded
    assert not (project.root / "data/raw/red" / name).exists()
    reason = listed(project)[f"red/{name}"]
    assert reason and len(reason.splitlines()) == 1 and str(project.root) not in reason


@pytest.mark.fault("Data", "hidden files and __MACOSX", "passed over")
def test_hidden_files_are_passed_over(downloaded, record_property):
    record_property("injections", len(HIDDEN))
    project, _ = downloaded
    files = project.files("data/raw")
    assert not [name for name in files if "/." in name or "__MACOSX" in name]
    assert not {f"red/{name}" for name in HIDDEN} & set(listed(project))


@pytest.mark.fault("Data", "pipe, socket, link to nowhere, link in a circle", "passed over")
def test_what_is_no_file_is_passed_over(downloaded, record_property):
    record_property("injections", 6)
    project, _ = downloaded
    assert sorted(path.name for path in (project.root / "data/raw").iterdir()) == [
        "blue",
        "green",
        "red",
    ]
    assert len(project.files("data/raw")) == 90 + len(GOOD) + 1
    assert (project.root / "data/raw/red/linked.png").is_file()


def written(done: subprocess.CompletedProcess) -> list[str]:
    """What was written to standard error beside progress bars."""
    return [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line]


def test_nothing_else_is_said(downloaded):
    project, done = downloaded
    assert not written(done)
    assert f"{len(BAD)} files left out" in done.stdout
    assert len(listed(project)) == len(BAD)


def test_all_that_is_used_can_be_prepared(downloaded):
    project, _ = downloaded
    done = project.run("python", "src/prepare.py")
    assert not written(done)
    with (project.root / "data/prepared/images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["path"] for row in rows}
    assert {f"red/{name}" for name, _ in GOOD.values()} <= names
    arrays = [
        np.load(project.root / f"data/prepared/{split}-00000.npy") for split in ("train", "test")
    ]
    assert all(array.shape[2:] == (16, 16, 3) for array in arrays)


def download(project: Project, source: Path, fails: bool = False) -> str:
    """The output, or the one line of an error."""
    project.set_params({"download": {"source": str(source)}})
    done = project.run("python", "src/download.py", fails=fails)
    if not fails:
        return done.stdout
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ") and done.stderr.count("error: ") == 1
    assert not list((project.root / "data").glob("raw")) and not done.stdout
    return line


@pytest.mark.fault(
    "Data", "Kaggle's PetImages, with its damaged files and readme", "used; damaged ones are listed"
)
def test_pet_images(project: Project, tmp_path: Path):
    archive = tmp_path / "kagglecatsanddogs.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for number, kind in enumerate(("Cat", "Dog")):
            for index in range(20):
                image = picture(100 * number + index)
                target.writestr(f"PetImages/{kind}/{index}.jpg", encoded(image, "JPEG"))
            target.writestr(f"PetImages/{kind}/Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(99))
        target.writestr("PetImages/Cat/666.jpg", b"")
        target.writestr("PetImages/Dog/11702.jpg", b"")
        target.writestr("PetImages/Cat/10404.jpg", JPEG[:300])
        target.writestr("PetImages/Dog/9500.jpg", encoded(picture(1000), "GIF"))
        target.writestr("PetImages/Dog/11233.jpg", encoded(picture(1001), "BMP"))
        target.writestr("readme[1].txt", "terms")
        target.writestr("MSR-LA - 3467.docx", b"PK")
    assert "5 files left out" in download(project, archive)
    assert list(listed(project)) == [
        "Cat/10404.jpg",
        "Cat/666.jpg",
        "Cat/Thumbs.db",
        "Dog/11702.jpg",
        "Dog/Thumbs.db",
    ]
    assert len(project.files("data/raw/Cat")) == 20 and len(project.files("data/raw/Dog")) == 22


def refused(what: str, name: str, message: str) -> object:
    marks = pytest.mark.fault("Data", what, "refused in one line")
    return pytest.param(name, message, id=what, marks=marks)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        refused("empty class", "empty", "green has no picture that can be decoded (the folder is"),
        refused("class with damaged pictures only", "damaged", "green has no picture that can be"),
        refused("one class only", "one", "found 1 class folders; allowed: two or more"),
        refused("no class", "none", "found 0 class folders; allowed: two or more"),
        refused("archive in an archive", "nested", "found 0 class folders; allowed: two or more"),
        refused("archive with a name that is not UTF-8", "bytes", "is not UTF-8; rename it"),
    ],
)
def test_datasets_that_are_refused(
    project: Project, pictures: Path, tmp_path: Path, case: str, message: str
):
    source = shutil.copytree(pictures, tmp_path / "source")
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
        inner = shutil.make_archive(str(tmp_path / "inner/pictures"), "zip", source)
        source = Path(shutil.make_archive(str(tmp_path / "outer"), "tar", Path(inner).parent))
    else:
        Path(os.fsdecode(bytes(source) + b"/red/gr\xfc\xdf.png")).write_bytes(JPEG)
        source = Path(shutil.make_archive(str(tmp_path / "latin"), "tar", source))
    assert message in download(project, source, fails=True)


@pytest.mark.fault(
    "Data", "the same picture in two classes", "left out of all splits, listed in images.csv"
)
def test_a_picture_in_two_classes_is_not_learned(project: Project, pictures: Path, tmp_path: Path):
    source = shutil.copytree(pictures, tmp_path / "source")
    shutil.copy(source / "red/00.png", source / "blue/twin.png")
    download(project, source)
    assert "2 contradiction" in project.run("python", "src/prepare.py").stdout
    with (project.root / "data/prepared/images.csv").open() as file:
        splits = {row["path"]: row["split"] for row in csv.DictReader(file)}
    assert splits["red/00.png"] == splits["blue/twin.png"] == "contradiction"


@pytest.mark.fault("Data", "picture damaged after the download", "one line that names the file")
def test_a_picture_that_was_damaged_later_is_named(project: Project, pictures: Path):
    download(project, pictures)
    (project.root / "data/raw/red/00.png").write_bytes(b"damaged")
    done = project.run("python", "src/prepare.py", fails=True)
    assert "Traceback" not in done.stderr
    assert "error: data/raw/red/00.png: cannot identify image file" in done.stderr
    assert not (project.root / "data/prepared").exists()


@pytest.mark.fault("Data", "no data/raw", "one line that names the folder")
def test_without_a_download_there_is_nothing_to_prepare(project: Project):
    done = project.run("python", "src/prepare.py", fails=True)
    assert (
        done.stderr.startswith("error: data/raw not found") and len(done.stderr.splitlines()) == 1
    )
