"""Near duplicates and outliers are found, on features that have known ones."""

from collections.abc import Sequence

import numpy as np
import pytest

from helpers.made_features import clusters
from image_classifier.computing.prepared import SPLITS, ImageRecord
from image_classifier.review import neighbours
from image_classifier.review.features import reduce
from image_classifier.review.findings import Finding
from image_classifier.review.neighbours import (
    COUNT,
    Neighbours,
    find_neighbours,
    near_duplicates,
    outliers,
)


def made_features(count: int, size: int = 64) -> np.ndarray:
    """Features of images that are all different."""
    return np.random.default_rng(0).normal(size=(count, size))


def copy(features: np.ndarray, source: int, rows: Sequence[int]) -> None:
    """Make images near duplicates of another one."""
    noise = np.random.default_rng(1).normal(size=(len(rows), features.shape[1]))
    features[rows] = features[source] + 0.05 * noise


def neighbours_of(features: np.ndarray) -> Neighbours:
    features = (features - features.mean(axis=0)).astype(np.float32)
    return find_neighbours(features, reduce(features))


def records_in(splits: Sequence[str]) -> list[ImageRecord]:
    return [ImageRecord(f"{row}.png", "cat", split, str(row)) for row, split in enumerate(splits)]


def row_of(path: str) -> int:
    return int(path.removesuffix(".png"))


def pairs_of(findings: Sequence[Finding]) -> list[tuple[int, int]]:
    return [(finding.image, row_of(finding.suggested)) for finding in findings]


@pytest.mark.fault("Data", "near duplicates", "the review finds them, those across splits first")
def test_near_duplicates_are_found_and_pairs_across_splits_come_first():
    features = made_features(300)
    for source, duplicate in [(7, 3), (20, 21), (290, 10), (150, 280), (200, 201)]:
        copy(features, source, [duplicate])
    splits = ["train"] * 150 + ["validation"] * 100 + ["test"] * 50
    found = near_duplicates(neighbours_of(features), records_in(splits))
    pairs = pairs_of(found)
    # The other image is the one that is held out more.
    assert set(pairs[:2]) == {(10, 290), (150, 280)}
    assert set(pairs[2:]) == {(3, 7), (20, 21), (200, 201)}
    assert all((kind, 0.9 < score <= 1) == ("near_duplicate", True) for _, kind, _, score in found)
    for group in (found[:2], found[2:]):
        scores = [finding.score for finding in group]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("size", [16, 256, 1500])
def test_different_images_are_neither_near_duplicates_nor_outliers(size: int):
    found = neighbours_of(made_features(200, size))
    assert len(near_duplicates(found, records_in(["train"] * 200))) <= 1
    assert len(outliers(found)) <= 2


def test_files_with_equal_bytes_are_not_reported():
    features = made_features(60)
    features[[1, 2]] = features[0]
    records = records_in(["train"] * 60)
    records[1] = records[1]._replace(sha256=records[0].sha256)
    pairs = pairs_of(near_duplicates(neighbours_of(features), records))
    assert set(pairs) == {(0, 2), (1, 2)}


def test_a_long_series_of_frames_is_found_in_all_splits():
    """An image has more near duplicates than neighbours."""
    features, frames = made_features(300), np.arange(0, 300, 10)
    copy(features, 0, frames[1:])
    splits = np.array(SPLITS)[np.random.default_rng(2).choice(3, 300, p=[0.7, 0.15, 0.15])]
    found = near_duplicates(neighbours_of(features), records_in(splits))
    assert {row for pair in pairs_of(found) for row in pair} == set(frames.tolist())
    across = [splits[a] != splits[b] for a, b in pairs_of(found)]
    assert across == sorted(across, reverse=True)
    held_out = {b for a, b in pairs_of(found) if splits[a] == "train"}
    assert {row for row in frames if splits[row] != "train"} <= held_out


def test_images_unlike_all_others_are_found():
    features, _ = clusters(3, 100)
    features[[7, 40]] = 5 * np.random.default_rng(9).normal(size=(2, features.shape[1]))
    found = outliers(neighbours_of(features))
    assert {finding.image for finding in found[:2]} == {7, 40} and len(found) <= 6
    scores = [finding.score for finding in found]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
    assert {finding[1:3] for finding in found} == {("outlier", "")}


@pytest.mark.parametrize("count", [2, 3, COUNT, COUNT + 1, COUNT + 2])
def test_there_may_be_fewer_images_than_neighbours(count: int):
    found = neighbours_of(made_features(count))
    assert found.rows.shape == found.distances.shape == (count, min(COUNT, count - 1))
    for row, others in enumerate(found.rows.tolist()):
        assert row not in others and len(set(others)) == len(others)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert near_duplicates(found, records_in(["train"] * count)) == []
    assert len(outliers(found)) <= 2


def test_blocks_of_images_give_the_same_neighbours(monkeypatch: pytest.MonkeyPatch):
    features = made_features(100)
    copy(features, 3, [50, 99])
    whole = neighbours_of(features)
    monkeypatch.setattr(neighbours, "IMAGES_AT_ONCE", 33)
    blocks = neighbours_of(features)
    assert np.array_equal(whole.rows, blocks.rows)
    assert whole.distances == pytest.approx(blocks.distances, abs=1e-6)


def test_neighbours_are_those_of_a_direct_comparison():
    features = made_features(100)
    found = neighbours_of(features)
    features -= features.mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distances = np.linalg.norm(features[:, np.newaxis] - features, axis=2)
    nearest = np.sort(distances, axis=1)[:, 1 : COUNT + 1]
    assert np.take_along_axis(distances, found.rows, axis=1) == pytest.approx(nearest, abs=1e-4)
    assert found.distances == pytest.approx(nearest, abs=1e-4)


@pytest.mark.parametrize("zeros", [1, 20, 60])
@pytest.mark.filterwarnings("error")
def test_features_may_be_zero_or_equal(zeros: int):
    """A network whose units are all dead has such features."""
    features = made_features(60)
    features -= features.mean(axis=0)
    features[:zeros] = 0
    reduced = reduce(features.astype(np.float32))
    found = find_neighbours(features.astype(np.float32), reduced)
    assert np.isfinite(reduced).all() and np.isfinite(found.distances).all()
    findings = [*near_duplicates(found, records_in(["train"] * 60)), *outliers(found)]
    assert all(0 <= finding.score <= 1 for finding in findings)
