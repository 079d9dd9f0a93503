import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.images import write_image
from image_classifier.common.errors import InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.common.raw_data import RawImage, find_images
from image_classifier.computing import prepared
from image_classifier.computing.corrections import Correction
from image_classifier.computing.prepared import SPLITS, ImageRecord
from image_classifier.preparation.splits import split_images


def split_by_path(root: Path, validation: float = 0.2, test: float = 0.2) -> dict[str, str]:
    return {record.path: record.split for record in split_folder(root, validation, test)}


def split_folder(
    root: Path, validation: float, test: float, corrections: Sequence[Correction] = ()
) -> list[ImageRecord]:
    images = find_images(root)
    hashes = [sha256_of(root / image.path) for image in images]
    return split_images(images, hashes, validation, test, corrections)


def copy_parts(images: Path, root: Path, parts: dict[str, slice]) -> None:
    """Copy the given part of the images of two classes to each split."""
    for split, part in parts.items():
        for name in ("blue", "red"):
            (root / split / name).mkdir(parents=True)
            for file in sorted((images / name).iterdir())[part]:
                shutil.copy(file, root / split / name)


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    return shutil.copytree(images, tmp_path / "raw")


def test_splits_have_about_the_given_fractions(tmp_path: Path):
    for index in range(1000):
        path = tmp_path / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(str(index).encode())
    counts = Counter(split_by_path(tmp_path, validation=0.3, test=0.1).values())
    # Four standard deviations of a binomial distribution.
    assert abs(counts["validation"] - 300) < 58 and abs(counts["test"] - 100) < 38
    assert counts["train"] == 1000 - counts["validation"] - counts["test"]


def test_adding_images_moves_no_other_image(folder: Path):
    before = split_by_path(folder)
    for index in range(40):
        write_image(folder / "red" / f"a new one {index}.png", (200, 60, 60), seed=1000 + index)
    after = split_by_path(folder)
    assert len(after) == len(before) + 40
    assert {path: after[path] for path in before} == before


def test_copies_are_in_the_same_split(folder: Path):
    for path in sorted((folder / "red").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    splits = split_by_path(folder)
    for path, split in splits.items():
        if "copy of" in path:
            assert splits[path.replace("copy of ", "")] == split


def test_splits_of_the_dataset_are_kept(images: Path, tmp_path: Path):
    copy_parts(images, tmp_path, {split: slice(n, None, 3) for n, split in enumerate(SPLITS)})
    assert all(path.startswith(f"{split}/") for path, split in split_by_path(tmp_path).items())


@pytest.mark.parametrize(
    ("own", "taken_from"),
    [
        (("train", "validation"), ("train", "validation", "validation")),
        (("train", "test"), ("train", "train", "test")),
    ],
)
def test_a_missing_split_is_taken_from_the_previous_one(
    images: Path, tmp_path: Path, own: tuple[str, str], taken_from: tuple[str, str, str]
):
    copy_parts(images, tmp_path, {split: slice(n, None, 2) for n, split in enumerate(own)})
    splits = split_by_path(tmp_path, validation=0.4, test=0.4)
    assert set(splits.values()) == set(SPLITS)
    folders = dict(zip(SPLITS, taken_from, strict=True))
    assert all(path.split("/")[0] == folders[split] for path, split in splits.items())


def test_a_copy_of_a_test_image_is_not_used_for_training(images: Path, tmp_path: Path):
    copy_parts(
        images, tmp_path, {split: slice(10 * n, 10 * n + 10) for n, split in enumerate(SPLITS)}
    )
    shutil.copy(tmp_path / "test/red/20.png", tmp_path / "train/red/twin.png")
    shutil.copy(tmp_path / "test/red/20.png", tmp_path / "validation/red/twin.png")
    splits = split_by_path(tmp_path)
    assert splits["train/red/twin.png"] == splits["validation/red/twin.png"] == prepared.DUPLICATE
    assert splits["test/red/20.png"] == "test"


def test_reading_the_table_returns_what_was_written(tmp_path: Path):
    records = [
        ImageRecord("a, b/ü.png", "a, b", "train", "0" * 64),
        ImageRecord('c/"1"\r\n2.png', "c", "test", "f" * 64),
    ]
    prepared.write_table(records, tmp_path / "images.csv")
    assert prepared.read_table(tmp_path / "images.csv") == records
    assert prepared.class_names_of(records) == ["a, b", "c"]
    assert prepared.records_of(records, "test") == records[1:]


@pytest.mark.parametrize(
    "content",
    [b"path,class\na,b\n", b"\xff\xfe", b'path\n"' + b"a" * 200_000],
    ids=["columns", "bytes", "cell"],
)
@pytest.mark.fault(
    "Data", "data/prepared/images.csv: damaged", "one-line error that names the file"
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "images.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"images\.csv is damaged .*creates it again"):
        prepared.read_table(tmp_path / "images.csv")


def test_an_image_in_two_classes_is_excluded(folder: Path):
    before = split_by_path(folder)
    for name in ("a", "b"):
        shutil.copy(folder / "red/00.png", folder / f"blue/{name}.png")
    contradictions = {"red/00.png", "blue/a.png", "blue/b.png"}
    assert split_by_path(folder) == before | dict.fromkeys(contradictions, prepared.CONTRADICTION)


def test_corrections_change_all_copies_and_no_split(folder: Path):
    for name in ("red/a copy.png", "green/another copy.png"):
        shutil.copy(folder / "red/00.png", folder / name)
    shutil.copy(folder / "red/01.png", folder / "blue/twin.png")
    before = {record.path: record for record in split_folder(folder, 0.2, 0.2)}
    assert before["red/00.png"].split == before["red/01.png"].split == prepared.CONTRADICTION
    corrections = [
        Correction(sha256_of(folder / "red/00.png"), "renamed since.png", "blue"),
        Correction(sha256_of(folder / "red/01.png"), "red/01.png", ""),
        Correction(sha256_of(folder / "red/02.png"), "red/02.png", "green"),
    ]
    after = {record.path: record for record in split_folder(folder, 0.2, 0.2, corrections)}
    copies = [after[path] for path in ("red/00.png", "red/a copy.png", "green/another copy.png")]
    assert {record.class_name for record in copies} == {"blue"}  # no contradiction any more
    (split,) = {record.split for record in copies}
    assert split in SPLITS
    for path, class_name in {"red/01.png": "red", "blue/twin.png": "blue"}.items():
        left_out = ImageRecord(path, class_name, prepared.EXCLUDED, before[path].sha256)
        assert after[path] == left_out
    assert after["red/02.png"] == before["red/02.png"]._replace(class_name="green")
    changed = {*(record.path for record in copies), "red/01.png", "blue/twin.png", "red/02.png"}
    assert {path: after[path] for path in before if path not in changed} == {
        path: before[path] for path in before if path not in changed
    }


@pytest.mark.parametrize("class_name", ["", "blue"])
def test_a_class_whose_images_are_all_corrected_is_refused(folder: Path, class_name: str):
    corrections = [
        Correction(sha256_of(path), str(path), class_name) for path in (folder / "red").iterdir()
    ]
    with pytest.raises(InputError, match="class 'red' has no image to train on"):
        split_folder(folder, 0.2, 0.2, corrections)


def test_a_class_without_training_images_is_refused(folder: Path):
    for path, split in split_by_path(folder).items():
        if path.startswith("red/") and split == "train":
            (folder / path).unlink()
    with pytest.raises(InputError, match="class 'red' has no image to train on"):
        split_folder(folder, 0.2, 0.2)


def test_an_empty_split_is_refused(folder: Path):
    with pytest.raises(InputError, match="fell into the test split; add some, or raise"):
        split_folder(folder, 0.2, 1e-9)


def test_images_that_cannot_be_decoded_are_excluded(folder: Path):
    images = [*find_images(folder), RawImage("s3://bucket/gone.png", "", "red")]
    hashes = [sha256_of(folder / image.path) for image in images[:-1]]
    records = split_images(images, [*hashes, None], 0.2, 0.2)
    expected = ImageRecord("s3://bucket/gone.png", "red", prepared.UNREADABLE, "")
    assert [record for record in records if record.split == prepared.UNREADABLE] == [expected]
    assert len(records) == len(images)
