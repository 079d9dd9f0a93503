from pathlib import Path

import pytest

from image_classifier.common.class_folders import find_class_folders, find_files
from image_classifier.common.errors import InputError


def make_files(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["dog/1.jpg", "cat/1.jpg"], [("", "cat"), ("", "dog")], id="alone"),
        pytest.param(
            ["Train/cat/1.jpg", "Train/dog/1.jpg", "val/cat/2.jpg", "testing/dog/3.jpg"],
            [("test", "dog"), ("train", "cat"), ("train", "dog"), ("validation", "cat")],
            id="in splits under their usual names",
        ),
        pytest.param(
            ["archive/pets/cat/1.jpg", "archive/pets/dog/1.jpg", "__MACOSX/archive/._pets"],
            [("", "cat"), ("", "dog")],
            id="in other folders",
        ),
        pytest.param(
            ["PetImages/Cat/1.jpg", "PetImages/Dog/1.jpg", "readme[1].txt"],
            [("", "Cat"), ("", "Dog")],
            id="in a folder beside files",
        ),
        pytest.param(
            ["train/1.jpg", "test/1.jpg"], [("", "test"), ("", "train")], id="called like splits"
        ),
    ],
)
def test_class_folders(tmp_path: Path, names: list[str], expected: list[tuple[str, str]]):
    make_files(tmp_path, *names)
    assert list(find_class_folders(tmp_path)) == expected


def test_links_to_folders_are_followed_except_in_circles(tmp_path: Path):
    make_files(tmp_path, "elsewhere/dog/1.jpg", "pets/cat/1.jpg")
    (tmp_path / "pets/dog").symlink_to(tmp_path / "elsewhere/dog")
    (tmp_path / "pets/up").symlink_to("..")
    (tmp_path / "pets/here").symlink_to(".")
    (tmp_path / "pets/itself").symlink_to("itself")
    folders = find_class_folders(tmp_path / "pets")
    assert list(folders) == [("", "cat"), ("", "dog")]
    assert [path.name for path in find_files(folders["", "dog"])] == ["1.jpg"]


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere not found; allowed: a folder with"):
        find_class_folders(tmp_path / "nowhere")


def test_files_at_any_depth_are_found_except_hidden_ones(tmp_path: Path):
    make_files(tmp_path, "b.jpg", "a/deep/1.jpg", ".DS_Store", ".hidden/2.jpg")
    files = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert files == ["a/deep/1.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("names", "fragment"),
    [
        (["readme.txt"], "found 0 class folders"),
        (["cat/1.jpg"], "found 1 class folders"),
        (["test/cat/1.jpg", "validation/cat/1.jpg"], "but no 'train' folder"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "class 'c' is in 'test'"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"], "found test, train; allowed beside"),
        (["train/a/1.jpg", "train/b/1.jpg", "notes/1.txt"], "found notes, train; allowed beside"),
        (["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "one validation and one test folder"),
    ],
)
def test_invalid_class_folders_are_refused(tmp_path: Path, names: list[str], fragment: str):
    make_files(tmp_path, *names)
    with pytest.raises(InputError, match=fragment):
        find_class_folders(tmp_path)
