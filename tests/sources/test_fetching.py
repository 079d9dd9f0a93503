import hashlib
import shutil
from pathlib import Path

import pytest

from image_classifier.common.errors import InputError
from image_classifier.sources.fetching import fetch


def test_a_folder_is_used_in_place(tmp_path: Path):
    assert fetch(str(tmp_path), None, tmp_path / "scratch") == tmp_path


def test_a_local_archive_is_checked(images: Path, tmp_path: Path):
    archive = Path(shutil.make_archive(str(tmp_path / "images"), "zip", images))
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert list(fetch(str(archive), sha256, tmp_path / "a").iterdir())
    with pytest.raises(InputError, match=r"download\.sha256: .*images\.zip has"):
        fetch(str(archive), "0" * 64, tmp_path / "b")
    with pytest.raises(InputError, match="is a folder; only an archive can be checked"):
        fetch(str(tmp_path), "0" * 64, tmp_path / "c")


def test_a_missing_source_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"download\.source: .*nowhere not found"):
        fetch(str(tmp_path / "nowhere"), None, tmp_path / "scratch")
