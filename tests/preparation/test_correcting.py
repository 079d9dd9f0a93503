"""Corrections are checked against the dataset."""

import pytest

from image_classifier.common.errors import InputError
from image_classifier.common.raw_data import RawImage
from image_classifier.computing.corrections import Correction
from image_classifier.preparation.correcting import Changes, find_changes

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
IMAGES = [
    RawImage("cat/1.png", "", "cat"),
    RawImage("dog/copy of 1.png", "", "dog"),
    RawImage("https://example.org/2.png", "", "dog"),
    RawImage("dog/unreadable.png", "", "dog"),
]
HASHES = [A, A, B, None]


def test_without_corrections_nothing_changes():
    assert find_changes(None, [], IMAGES, HASHES) == Changes([], 0, 0)


def test_all_copies_are_counted_and_have_their_present_path():
    corrections = [Correction(A, "before/it was renamed.png", ""), Correction(B, "", "cat")]
    applied = [Correction(A, "cat/1.png", ""), Correction(B, "https://example.org/2.png", "cat")]
    changes = find_changes("corrections.csv", corrections, IMAGES, HASHES)
    assert changes == Changes(applied, relabelled=1, excluded=2)


def test_a_correction_that_changes_nothing_is_not_applied():
    """Otherwise data/prepared would change, and the training would run again."""
    corrections = [Correction(A, "", "dog"), Correction(B, "", "dog")]
    changes = find_changes("corrections.csv", corrections, IMAGES, HASHES)
    assert changes == Changes([Correction(A, "cat/1.png", "dog")], relabelled=1, excluded=0)


@pytest.mark.fault(
    "Data",
    "correction of an image that the dataset lacks, or to an unknown class",
    "error with a line for each correction that names the file and the image",
)
def test_images_and_classes_that_do_not_exist_are_named():
    corrections = [
        Correction(A, "1.png", "Cats"),
        Correction(B, "2\n.png", "elephant"),
        Correction(C, "gone.png", ""),
    ]
    with pytest.raises(InputError) as caught:
        find_changes("corrections.csv", corrections, IMAGES, HASHES)
    assert str(caught.value).split("\n       ") == [
        "corrections.csv: '1.png': found the class 'Cats'; did you mean 'cat'?",
        r"corrections.csv: '2\n.png': found the class 'elephant'; allowed: cat, dog, or no class",
        f"corrections.csv: 'gone.png': found the sha256 {C}; allowed: that of an image in data/raw "
        "(remove the line if the image was removed)",
    ]
    unknown = [Correction(f"{number:064}", "", "cat") for number in range(1000)]
    with pytest.raises(InputError, match=r"corrections\.csv: 980 more corrections cannot be app"):
        find_changes("corrections.csv", unknown, IMAGES, HASHES)
