import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from image_classifier.errors import InputError
from image_classifier.sources import fetch


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


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "content",
    [ARCHIVE, tar_of(PICTURES), tar_of(PICTURES, "w:gz"), tar_of(PICTURES, "w:xz")],
    ids=["zip", "tar", "tar.gz", "tar.xz"],
)
def test_archives_on_disk_are_unpacked(tmp_path: Path, content: bytes):
    (tmp_path / "archive").write_bytes(content)
    scratch = tmp_path / "scratch"
    assert contents(fetch(str(tmp_path / "archive"), None, scratch)) == PICTURES


def test_a_folder_is_used_where_it_stands(tmp_path: Path):
    assert fetch(str(tmp_path), None, tmp_path / "scratch") == tmp_path


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil"])
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_archives_cannot_write_outside_their_folder(tmp_path: Path, pack, name: str):
    (tmp_path / "archive").write_bytes(pack({"good": b"", name: b"evil"}))
    scratch = tmp_path / "deep" / "scratch"
    with pytest.raises(InputError, match="lies outside its folder"):
        fetch(str(tmp_path / "archive"), None, scratch)
    assert not list(tmp_path.rglob("*evil*"))


def test_links_in_archives_are_passed_over(tmp_path: Path):
    link = zipfile.ZipInfo("pets/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("pets/good", "good")
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"pets/link{kind}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert contents(fetch(str(tmp_path / "links.zip"), None, tmp_path / "a")) == {
        "pets/good": b"good"
    }
    fetch(str(tmp_path / "links.tar"), None, tmp_path / "b")
    assert not list((tmp_path / "b").rglob("*link*"))


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


@pytest.mark.parametrize(
    "content",
    [
        ARCHIVE,
        zip_of(PICTURES, zipfile.ZIP_DEFLATED),
        zip_of(PICTURES, zipfile.ZIP_LZMA),
        tar_of(PICTURES, "w:gz"),
        tar_of(PICTURES, "w:xz"),
    ],
    ids=["stored", "deflated", "lzma", "tar.gz", "tar.xz"],
)
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes):
    damaged = bytearray(content)
    for position in range(60, 200):
        damaged[position] ^= 255
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged (cannot be unpacked|is neither a zip nor)"):
        fetch(str(tmp_path / "damaged"), None, tmp_path / "scratch")


def test_an_empty_archive_is_an_empty_folder(tmp_path: Path):
    (tmp_path / "empty.zip").write_bytes(zip_of({}))
    assert contents(fetch(str(tmp_path / "empty.zip"), None, tmp_path / "scratch")) == {}
