"""The page of a review: its data, its size, and images that cannot be shown."""

import base64
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from helpers.images import encoded, noisy_image
from helpers.made_experiments import data_of
from helpers.made_review import made_review, write_records
from image_classifier.common import remote
from image_classifier.common.raw_data import locate
from image_classifier.common.remote import RemoteFile
from image_classifier.computing.corrections import Correction
from image_classifier.computing.prepared import ImageRecord
from image_classifier.pages.templates import to_json
from image_classifier.review import page
from image_classifier.review.findings import ConfusedClasses, Finding, Review

CATS = [("cat", "train")] * 3
EDITABLE = ("train", "validation")


def described(review: Review, root: Path, max_bytes: int = 1_000_000) -> dict:
    data = page.describe(review, EDITABLE, partial(location, root), max_bytes)
    return json.loads(to_json(data))


def location(root: Path, record: ImageRecord) -> str:
    return locate(root, record.path)


def size_of(source: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size


def test_each_section_has_its_findings(tmp_path: Path):
    records = write_records(tmp_path, [*CATS, ("dog", "train"), ("dog", "validation")])
    findings = [
        Finding(1, "label", "dog", 0.9),
        Finding(0, "label", "dog", 0.8),
        Finding(2, "near_duplicate", "3.png", 0.9),
        Finding(2, "outlier", "", 0.7),
        Finding(1, "quality", "dark", 0.6),
    ]
    corrections = [Correction("a" * 64, "old.png", "")]
    confused = [ConfusedClasses("cat", "dog", 2, 5)]
    data = described(made_review(records, findings, confused, corrections), tmp_path)

    images = data["images"]
    assert [image["path"] for image in images] == ["1.png", "0.png", "2.png", "3.png"]
    assert images[0] == {
        "sha256": records[1].sha256,
        "path": "1.png",
        "split": "train",
        "class": "cat",
    }
    assert data["labels"][0] == {"image": 0, "suggested": "dog", "probabilities": [0.1, 0.9]}
    assert [label["image"] for label in data["labels"]] == [0, 1]
    assert data["pairs"] == [[2, 3]] and data["outliers"] == [2]
    assert data["quality"] == [{"image": 0, "problem": "dark"}]
    assert data["found"] == {"label": 2, "near_duplicate": 1, "outlier": 1, "quality": 1}
    assert data["confused"] == [["cat", "dog", 2, 5]]
    assert data["corrections"] == [["a" * 64, "old.png", ""]]
    assert data["counts"] == {
        "splits": ["train", "validation", "test"],
        "rows": [["cat", 3, 0, 0], ["dog", 1, 1, 0]],
        "total": [4, 1, 0],
    }
    assert [size_of(source) for source in data["sources"]] == [(24, 24)] * 4  # not enlarged


def test_pairs_across_splits_come_first(tmp_path: Path):
    splits = ("train", "train", "test", "validation", "train", "test")
    records = write_records(tmp_path, [("cat" if n else "dog", s) for n, s in enumerate(splits)])
    pairs = [(0, 1), (3, 4), (2, 1), (5, 3), (4, 0)]
    findings = [Finding(a, "near_duplicate", f"{b}.png", 0.9) for a, b in pairs]
    data = described(made_review(records, findings), tmp_path)
    shown = [[data["images"][place]["path"] for place in pair] for pair in data["pairs"]]
    assert shown == [
        ["1.png", "2.png"],
        ["3.png", "5.png"],
        ["4.png", "3.png"],
        ["0.png", "1.png"],
        ["4.png", "0.png"],
    ]


def test_the_page_keeps_its_size_limit(tmp_path: Path):
    count, size = 60, (150, 100)
    rows = [("cat" if n else "dog", "train") for n in range(count)]
    records = write_records(tmp_path, rows, size)
    review = made_review(records, [Finding(row, "outlier", "", 0.9) for row in range(count)])
    widths = {}
    for max_bytes in (2_000_000, 250_000, 30_000):
        data = described(review, tmp_path, max_bytes)
        assert len(to_json(data)) <= max_bytes
        sizes = [size_of(source) for source in data["sources"] if source]
        widths[max_bytes] = {size[0] for size in sizes}
        assert len(sizes) == count or max_bytes == 30_000
    assert widths[2_000_000] == {150} and max(widths[250_000]) < 150


def test_only_the_most_certain_of_many_findings_are_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page, "MAX_FINDINGS", dict.fromkeys(page.MAX_FINDINGS, 2))
    records = write_records(tmp_path, [("cat" if n else "dog", "train") for n in range(9)])
    findings = [
        *(Finding(row, "label", "dog", 0.9) for row in range(1, 5)),
        *(Finding(row, "near_duplicate", "0.png", 0.9) for row in range(5, 9)),
    ]
    data = described(made_review(records, findings), tmp_path)
    assert data["found"] == {"label": 4, "near_duplicate": 4, "outlier": 0, "quality": 0}
    assert len(data["labels"]) == len(data["pairs"]) == 2
    paths = ["1.png", "2.png", "5.png", "0.png", "6.png"]
    assert [image["path"] for image in data["images"]] == paths


def test_the_smallest_of_many_classes_are_counted(tmp_path: Path):
    sizes = {f"class {n:03}": 150 - n for n in range(150)}
    records = [ImageRecord("", name, "train", "") for name, n in sizes.items() for _ in range(n)]
    counts = described(made_review(records), tmp_path)["counts"]
    assert counts["rows"] == [[f"class {150 - n:03}", n, 0, 0] for n in range(1, 101)]
    assert counts["total"] == [len(records), 0, 0]


def test_images_that_cannot_be_read_do_not_hide_others(tmp_path: Path):
    records = write_records(tmp_path, [*CATS, ("dog", "train")])
    (tmp_path / "0.png").write_bytes(b"half a pic")
    (tmp_path / "1.png").unlink()
    review = made_review(records, [Finding(row, "outlier", "", 0.9) for row in range(4)])
    assert [bool(s) for s in described(review, tmp_path)["sources"]] == [False, False, True, True]


def remote_review(count: int, kept: Sequence[int]) -> Review:
    """A review of images at URLs, of which only those at `kept` exist."""
    bucket = fsspec.filesystem("memory")
    rows = [("cat" if n else "dog", "train") for n in range(count)]
    records = [
        ImageRecord(f"memory://review/{n}.png", *row, "unknown") for n, row in enumerate(rows)
    ]
    for n in kept:
        bucket.pipe(f"/review/{n}.png", encoded(noisy_image(n)))
    return made_review(records, [Finding(row, "outlier", "", 0.9) for row in range(count)])


def test_only_remote_images_on_the_page_are_fetched(monkeypatch: pytest.MonkeyPatch):
    fetched = []

    def read(file: RemoteFile) -> bytes:
        fetched.append(file.url)
        return remote.read(file.url)

    monkeypatch.setattr(RemoteFile, "read", read)
    review = remote_review(5, kept=[0, 1, 2, 3])
    review = review._replace(findings=review.findings[:2] + review.findings[4:])
    data = page.describe(review, EDITABLE, lambda r: RemoteFile(r.path, r.sha256), 1_000_000)
    assert [bool(source) for source in data["sources"]] == [True, True, False]
    assert {url[-5] for url in fetched} == {"0", "1", "4"}


@pytest.mark.fault("Network", "bucket out of reach of the review", "a page without its images")
def test_without_a_network_the_page_has_no_remote_images(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def fail(filesystem: object, path: str) -> bytes:
        tried.append(path)
        raise OSError("network is unreachable")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    review = remote_review(200, kept=[])
    data = page.describe(review, EDITABLE, lambda r: RemoteFile(r.path, r.sha256), 1_000_000)
    assert not any(data["sources"]) and len(data["images"]) == 200
    assert len(set(tried)) < 50  # each costs 15 s


def test_text_cannot_break_out_of_the_page(tmp_path: Path):
    name = "</script><b>&amp;\u2028{{review}}"
    records = write_records(tmp_path, [(name, "train"), ("<!--", "train")])
    review = made_review(records, [Finding(0, "label", "<!--", 0.9)])
    text = page.build_page(review, EDITABLE, partial(location, tmp_path))
    assert name not in text and "<!--<" not in text
    assert "<script src" not in text and '<link rel="stylesheet' not in text
    assert "{{shared" not in text and "unsafe-eval" not in text
    (tmp_path / "review.html").write_text(text, encoding="utf-8")
    assert data_of(tmp_path / "review.html")["classes"] == ["<!--", name]
