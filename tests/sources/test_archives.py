"""Usual, damaged and malicious archives."""

import gzip
import io
import sys
import tarfile
import time
import zipfile
import zlib
from functools import partial
from pathlib import Path

import pytest

from helpers.fault_table import faulty
from helpers.project import REPOSITORY, run_python
from image_classifier.common.disk import NoSpaceError
from image_classifier.common.errors import InputError
from image_classifier.sources import archives
from image_classifier.sources.archives import unpack

IMAGES = {"pets/cat/1.jpg": b"cat" * 100_000, "pets/dog/1.jpg": b"dog"}
MEBIBYTE, GIBIBYTE = 2**20, 2**30


def zip_of(
    files: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]],
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
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


def tar_header(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, without the bytes that it announces."""
    member = tarfile.TarInfo("zeros.jpg")
    member.size, member.type = size, kind
    return member.tobuf()


def deflated_zeros(size: int) -> bytes:
    """Zeros, a multiple of 64 MiB, deflated to a thousandth as in a zip archive."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = compressor.compress(bytes(64 * MEBIBYTE)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * (size // (64 * MEBIBYTE)) + compressor.flush()


def zip_bomb(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("zeros.jpg", deflated_zeros(size))
        member = archive.getinfo("zeros.jpg")
        member.compress_type, member.file_size = zipfile.ZIP_DEFLATED, size
    return buffer.getvalue()


def tar_bomb(size: int) -> bytes:
    zeros = gzip.compress(bytes(64 * MEBIBYTE), mtime=0) * (size // (64 * MEBIBYTE))
    return gzip.compress(tar_header(size)) + zeros + gzip.compress(bytes(1024))


def unpacked(content: bytes, tmp_path: Path) -> dict[str, bytes]:
    """Unpack an archive, and return its files; an `InputError` must have one line."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "archive").write_bytes(content)
    folder = tmp_path / "unpacked"
    try:
        unpack(tmp_path / "archive", folder, "pets.zip")
    except InputError as error:
        assert len(str(error).splitlines()) == 1 and str(error).startswith("pets.zip ")
        raise
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


data = partial(faulty, "Data")


def damaged(what: str, *values: object) -> object:
    return data(what, "refused with a one-line error", *values)


@pytest.mark.parametrize(
    "content",
    [
        zip_of(IMAGES),
        zip_of(IMAGES, zipfile.ZIP_BZIP2),
        *(tar_of(IMAGES, f"w:{kind}") for kind in ("", "gz", "bz2", "xz")),
    ],
    ids=["zip", "zip.bz2", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
def test_archives_are_unpacked(tmp_path: Path, content: bytes):
    assert unpacked(content, tmp_path) == IMAGES


def test_an_empty_archive_is_an_empty_folder(tmp_path: Path):
    assert unpacked(zip_of({}), tmp_path) == {}


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil"])
@pytest.mark.fault(
    "Data",
    "archive: a member outside its folder (`../`, absolute, drive)",
    "refused with a one-line error",
)
def test_archives_cannot_write_outside_their_folder(tmp_path: Path, pack, name: str):
    with pytest.raises(InputError, match="is outside the archive's folder"):
        unpacked(pack({"good": b"", name: b"evil"}), tmp_path)
    assert not list(tmp_path.rglob("*evil*"))


def zip_with_links() -> bytes:
    link = zipfile.ZipInfo("pets/link")
    link.external_attr = 0o120777 << 16
    return zip_of([(link, b"/etc/passwd"), ("pets/good", b"good")])


def tar_with_links() -> bytes:
    links = b""
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        member = tarfile.TarInfo(f"pets/link{kind}")
        member.type, member.linkname = kind, "/etc/passwd"
        links += member.tobuf()
    return links + tar_of({"pets/good": b"good"})


PASSED_OVER = "ignored, the rest is used"


@pytest.mark.parametrize(
    "content",
    [
        data("zip archive: symbolic links", PASSED_OVER, zip_with_links()),
        data("tar archive: symbolic and hard links, pipes, devices", PASSED_OVER, tar_with_links()),
    ],
)
def test_links_are_ignored(tmp_path: Path, content: bytes):
    assert unpacked(content, tmp_path) == {"pets/good": b"good"}


@pytest.mark.parametrize("cut", [False, True], ids=["overwritten", "truncated"])
@pytest.mark.parametrize(
    "content",
    [
        damaged("archive: damaged or truncated zip", zip_of(IMAGES)),
        damaged(
            "archive: damaged or truncated zip, deflated",
            zip_of(IMAGES, zipfile.ZIP_DEFLATED),
        ),
        damaged("archive: damaged or truncated zip, LZMA", zip_of(IMAGES, zipfile.ZIP_LZMA)),
        damaged("archive: damaged or truncated tar.gz", tar_of(IMAGES, "w:gz")),
        damaged("archive: damaged or truncated tar.bz2", tar_of(IMAGES, "w:bz2")),
        damaged("archive: damaged or truncated tar.xz", tar_of(IMAGES, "w:xz")),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes, cut: bool):
    content = bytearray(content[: len(content) * 2 // 3] if cut else content)
    if not cut:
        for position in range(60, min(200, len(content))):
            content[position] ^= 255
    with pytest.raises(InputError, match=r"cannot be unpacked|is neither a zip nor"):
        unpacked(content, tmp_path)


def encrypted() -> bytes:
    content = bytearray(zip_of({"pets/cat/1.jpg": b"cat"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def invalid_utf8() -> bytes:
    content = zip_of({"pets/c\u00e4t/1.jpg": b"cat"})
    return content.replace("\u00e4".encode(), b"\xff\xff")


def understated() -> bytes:
    """A zip archive with a member larger than its directory declares."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(MEBIBYTE))
        archive.getinfo("zeros.jpg").file_size = 1000
    return buffer.getvalue()


def negative_size() -> bytes:
    """As in CVE-2025-8194: reading would move backwards forever."""
    member = tarfile.TarInfo("zeros.jpg")
    member.pax_headers = {"size": "-1536"}
    return member.tobuf(tarfile.PAX_FORMAT) + bytes(10240)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        damaged("archive: encrypted zip", encrypted(), "encrypted"),
        damaged("archive: empty file", b"", "neither a zip nor a tar archive"),
        damaged("archive: a web page", b"<html>" * 999, "neither a zip nor a tar archive"),
        damaged(
            "archive: unknown format (zstd, 7z, rar)",
            b"\x28\xb5\x2f\xfd" + bytes(999),
            "neither a zip nor a tar archive",
        ),
        damaged(
            "archive: a member that is a file and a folder",
            tar_of({"pets/cat": b"cat", "pets/cat/1.jpg": b"cat"}),
            "cannot be unpacked",
        ),
        damaged("archive: names that are not UTF-8", invalid_utf8(), "cannot be unpacked"),
        damaged("archive: a member larger than declared", understated(), "Bad CRC-32"),
        damaged("tar archive: a negative size", negative_size(), "-1,536 bytes"),
        damaged(
            "tar archive: a name of 1 GiB",
            tar_header(GIBIBYTE, tarfile.GNUTYPE_LONGNAME),
            "a header of 1,073,741,824 bytes",
        ),
        damaged(
            "archive: a name that is too long for a file",
            zip_of({"x" * 300: b""}),
            "File name too long",
        ),
    ],
)
def test_invalid_archives_are_refused(tmp_path: Path, content: bytes, message: str):
    with pytest.raises(InputError, match=message):
        unpacked(content, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_similar_names(tmp_path: Path):
    content = zip_of([("a.jpg", b"old"), ("A.jpg", b"other"), ("a.jpg", b"new")])
    assert unpacked(content, tmp_path) in (
        {"a.jpg": b"new", "A.jpg": b"other"},
        {"a.jpg": b"new"},  # on file systems that ignore case
        {"A.jpg": b"new"},
    )


def test_an_archive_inside_an_archive_is_a_file(tmp_path: Path):
    inner = zip_of(IMAGES)
    for number, pack in enumerate((tar_of, zip_of)):
        # A zip archive is recognised by its end, which is also near the end of the outer archive.
        small = {"pets/inner.zip": zip_of({"1.jpg": b"cat"})}
        assert unpacked(pack(small), tmp_path / str(number)) == small
    assert unpacked(tar_of({"inner.zip": inner}), tmp_path) == {"inner.zip": inner}


BOMB = "refused within a second with a one-line error, nothing is written"


@pytest.mark.parametrize(
    "content",
    [
        data("zip archive: 10 GiB of zeros in 10 MiB", BOMB, zip_bomb),
        data("tar.gz archive: 10 GiB of zeros in 10 MiB", BOMB, tar_bomb),
    ],
)
def test_a_decompression_bomb_is_refused(tmp_path: Path, content):
    bomb = content(10 * GIBIBYTE)
    assert len(bomb) < 11 * MEBIBYTE
    start = time.process_time()
    with pytest.raises(InputError, match=r"unpacks to at least 10,737,418,240 bytes, more than 1"):
        unpacked(bomb, tmp_path)
    # Of the processor, which other programs do not lengthen; unpacking takes ten times as long.
    assert time.process_time() - start < 5
    assert not list((tmp_path / "unpacked").iterdir())


def test_the_bombs_are_real(tmp_path: Path):
    for number, bomb in enumerate((zip_bomb, tar_bomb)):
        size = 128 * MEBIBYTE
        try:
            assert unpacked(bomb(size), tmp_path / str(number)) == {"zeros.jpg": bytes(size)}
        except InputError as error:
            assert "Bad CRC-32" in str(error)  # the checksum was not computed
        assert (tmp_path / str(number) / "unpacked/zeros.jpg").stat().st_size > 0.99 * size


@pytest.mark.parametrize(
    "content",
    [
        damaged("disk: less room than a zip archive needs", zip_of(IMAGES)),
        damaged("disk: less room than a tar archive needs", tar_of(IMAGES)),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
):
    usage = archives.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(NoSpaceError, match=r"unpacked: no space .*300.0 kB needed, 1.0 kB free"):
        unpack(tmp_path / "archive", tmp_path / "unpacked", "pets.zip")
    assert not list((tmp_path / "unpacked").iterdir())


LIMITED = """
import resource
from pathlib import Path
from image_classifier.sources.archives import unpack
from image_classifier.common.script import run
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run(lambda: unpack(Path("archive"), Path("unpacked"), "pets.zip"), Path.cwd())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.fault(
    "Data",
    "disk: full, or a file too large for it, while unpacking",
    "one-line error with the free space",
)
def test_a_full_disk_is_named(tmp_path: Path):
    (tmp_path / "archive").write_bytes(zip_of(IMAGES))
    done = run_python("-c", LIMITED, folder=tmp_path, PYTHONPATH=str(REPOSITORY / "src"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "error: unpacked: File too large (300.0 kB needed, " in line
