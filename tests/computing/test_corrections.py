"""Corrections of labels, as people write them and as data/prepared has them."""

from pathlib import Path

import pytest

from image_classifier.common.errors import InputError
from image_classifier.computing.corrections import (
    Correction,
    applied_corrections,
    read_corrections,
    write_corrections,
)

HEADER = "sha256,path,class\n"
A, B = "a" * 64, "b1" * 32
CORRECTIONS = [Correction(A, 'red/"1", ü\n2.png', "blue, navy"), Correction(B, "", "")]


def test_reading_returns_what_was_written(tmp_path: Path):
    assert applied_corrections(tmp_path) == []
    write_corrections(CORRECTIONS, tmp_path / "corrections.csv")
    assert read_corrections(tmp_path / "corrections.csv") == CORRECTIONS
    assert applied_corrections(tmp_path) == CORRECTIONS
    (tmp_path / "corrections.csv").write_text(HEADER)
    assert read_corrections(tmp_path / "corrections.csv") == []


def test_a_spreadsheet_may_have_saved_the_file(tmp_path: Path):
    path = tmp_path / "corrections.csv"
    lines = ["sha256,path,class", f"{B.upper()},,", "", f"{A},Köln/1.png,Köln", ""]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert read_corrections(path) == [Correction(A, "Köln/1.png", "Köln"), Correction(B, "", "")]


def test_copies_of_an_image_are_one_correction(tmp_path: Path):
    path = tmp_path / "corrections.csv"
    path.write_text(f"{HEADER}{A},red/1.png,blue\n{A},red/copy.png,blue\n")
    assert read_corrections(path) == [Correction(A, "red/1.png", "blue")]


COLUMNS = "allowed: sha256,path,class"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r": not found; allowed: a CSV file with the columns sha256, path, class"),
        ("", rf", line 1: found ''; {COLUMNS}"),
        ("path,class\n", rf", line 1: found 'path,class'; {COLUMNS}"),
        ("sha256;path;class\n", rf", line 1: found 'sha256;path;class'; {COLUMNS}"),
        (f"{HEADER}{A},red/1.png\n", ", line 2: found 2 cells; allowed: 3, sha256,path,class"),
        (f"{HEADER}\n{A},a,b.png,red\n", ", line 3: found 4 cells; allowed: 3, sha256,path,class"),
        (f"{HEADER}red/1.png,{A},b\n", ", line 2: found the sha256 'red/1.png'; allowed: 64 hexa"),
        (f"{HEADER}{A}0,red/1.png,b\n", ", line 2: found the sha256 'a.*; allowed: 64 hexadecimal"),
        (
            f"{HEADER}{A},1.png,blue\n{B},2.png,blue\n{A.upper()},3.png,\n",
            ", line 4: found the class '', but 'blue' in line 2 for the same image; allowed: one",
        ),
        (f'{HEADER}{A},"red/1.png,b\n{B},,\n', ", line 2: found no valid CSV .*; allowed: sha256"),
        (
            f"{HEADER}{A},red/1.png,K\xf6ln\n".encode("latin-1"),
            ", line 2: found byte 0xf6; allow",
        ),
        (f"{HEADER}{A},,\n".encode("utf-16"), ", line 1: found byte 0xff; allowed: UTF-8 text"),
    ],
    ids=[
        *("missing", "empty", "header", "semicolons", "two cells", "four cells", "order", "digits"),
        *("two classes", "quote", "latin-1", "utf-16"),
    ],
)
@pytest.mark.fault(
    "Data", "file of corrections: missing, damaged", "one-line error that names the file and line"
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str | bytes | None, message: str):
    path = tmp_path / "corrections.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"corrections\.csv{message}") as caught:
        read_corrections(path)
    assert "\n" not in str(caught.value)
