from pathlib import Path

import pytest
from PIL import Image

from image_classifier.common.class_folders import (
    IMAGE_NAME,
    describe_left_out,
    find_class_folders,
    find_files,
)
from image_classifier.common.errors import InputError
from image_classifier.common.images import FORMATS


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
    ("names", "line"),
    [
        (
            [".DS_Store", ".1.jpg", "notes.txt", ".git/config", "__MACOSX/1.jpg", "cat/more/2.jpg"],
            "",
        ),
        (["b.jpg"], "left out: 1 image outside the class folders, such as 'b.jpg'"),
        (
            [*(f"{number}.PNG" for number in range(1200)), "two\nlines.jpg"],
            "left out: 1,201 images outside the class folders, such as '0.PNG'",
        ),
        (
            [".dog/1.jpg", ".dog/.2.jpg", ".dog/notes.txt"],
            "left out: 1 image in 1 folder whose name begins with a dot, such as '.dog'",
        ),
        (
            ["1.jpg", ".dog/1.jpg", ".dog/more/2.jpg", ".bird/1.webp", ".git/config"],
            "left out: 1 image outside the class folders, such as '1.jpg'; "
            "3 images in 2 folders whose name begins with a dot, such as '.bird'",
        ),
    ],
)
@pytest.mark.parametrize("place", ["", "pets/", "data/train/"])
def test_images_that_are_left_out_are_counted(
    tmp_path: Path, place: str, names: list[str], line: str
):
    make_files(tmp_path, *(f"{place}{name}" for name in ["cat/1.jpg", "dog/1.jpg", *names]))
    class_folders = find_class_folders(tmp_path).values()
    expected = line.replace("such as '", f"such as '{place}")
    assert describe_left_out(tmp_path, class_folders) == expected


def test_images_beside_splits_are_counted(tmp_path: Path):
    names = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/2.jpg", "3.jpg"]
    make_files(tmp_path, *names, ".test/cat/1.jpg", "val/.dog/1.jpg")
    assert describe_left_out(tmp_path, find_class_folders(tmp_path).values()) == (
        "left out: 2 images outside the class folders, such as '3.jpg'; "
        "2 images in 2 folders whose name begins with a dot, such as '.test'"
    )


def test_images_of_all_formats_are_recognized_by_name():
    extensions = Image.registered_extensions()
    recognized = {
        extensions[extension] for extension in extensions if IMAGE_NAME.fullmatch(f"1{extension}")
    }
    assert recognized == set(FORMATS)


@pytest.mark.parametrize(
    ("names", "fragment"),
    [
        (["readme.txt"], "found 0 class folders"),
        (
            ["pets/1.jpg", "pets/2.jpg"],
            "found 1 class folders; allowed: two or more, each with images$",
        ),
        (["1.jpg", "2.jpg"], "found 0 class folders; .*; left out: 2 images outside the class fo"),
        (["cat/1.jpg", ".dog/1.jpg"], "found 1 class folders; .*; left out: 1 image in 1 folder"),
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
