"""Labels that are probably wrong are found, on features with known mistakes."""

import numpy as np
import pytest

from helpers.made_features import clusters
from image_classifier.common.errors import InputError
from image_classifier.review.features import reduce
from image_classifier.review.findings import ConfusedClasses
from image_classifier.review.labels import (
    confused_classes,
    find_label_issues,
    label_findings,
    predict_held_out,
)


def issues_of(
    features: np.ndarray, labels: np.ndarray, train_share: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and issues, with the first images as training images."""
    count = round(train_share * len(labels))
    probabilities = predict_held_out(reduce(features), labels, count)
    return probabilities, find_label_issues(probabilities, labels)


def flipped(labels: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is wrong, and the rows of these."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(labels), round(share * len(labels)), replace=False)
    others = generator.integers(1, labels.max() + 1, len(rows))
    given = labels.copy()
    given[rows] = (labels[rows] + others) % (labels.max() + 1)
    return given, np.sort(rows)


@pytest.mark.parametrize(("classes", "per_class"), [(2, 100), (3, 60), (20, 20)])
@pytest.mark.fault("Data", "wrong labels", "the review finds most of them, and few others")
def test_wrong_labels_are_found_in_all_splits(classes: int, per_class: int):
    features, labels = clusters(classes, per_class, spread=0.5)
    given, wrong = flipped(labels, 0.1)
    probabilities, issues = issues_of(features, given)
    assert probabilities.dtype == np.float32 and probabilities.shape == (len(labels), classes)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    hits = np.intersect1d(issues, wrong)
    assert len(np.unique(issues)) == len(issues)
    assert len(hits) >= 0.85 * len(wrong) and len(hits) >= 0.95 * len(issues)
    assert hits.min() < 0.7 * len(labels) < hits.max()

    names = [f"class {label}" for label in range(classes)]
    findings = label_findings(probabilities, given, issues, names)
    assert [finding.image for finding in findings] == issues.tolist()
    right = [finding.suggested == names[labels[finding.image]] for finding in findings]
    assert np.mean(right) >= 0.95
    assert all(finding.suggested != names[given[finding.image]] for finding in findings)
    scores = [finding.score for finding in findings]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1


@pytest.mark.parametrize(("classes", "per_class"), [(2, 100), (20, 20)])
def test_right_labels_are_not_reported(classes: int, per_class: int):
    features, labels = clusters(classes, per_class, spread=0.5)
    probabilities, issues = issues_of(features, labels)
    assert len(issues) == 0
    names = [str(label) for label in range(classes)]
    assert label_findings(probabilities, labels, issues, names) == []
    assert confused_classes(probabilities, labels, issues, names) == []


def test_the_same_images_in_another_order_have_the_same_findings():
    features, labels = clusters(3, 40)
    given, wrong = flipped(labels, 0.1)
    probabilities, issues = issues_of(features, given)
    again, same = issues_of(features.copy(), given)
    assert np.array_equal(probabilities, again) and np.array_equal(issues, same)
    # Other names, so other labels: the images of a class are the same.
    swapped = np.array([2, 0, 1])
    assert set(issues_of(features, swapped[given])[1]) == set(issues)
    order = np.random.default_rng(0).permutation(len(labels))  # also into other splits
    found = order[issues_of(features[order], given[order])[1]]
    assert len(np.intersect1d(found, wrong)) >= 0.9 * len(wrong)
    assert len(np.intersect1d(found, issues)) >= 0.9 * max(len(found), len(issues))


def test_the_second_models_do_not_learn_from_wrong_labels(monkeypatch: pytest.MonkeyPatch):
    features, labels = clusters(3, 60, spread=1.5)
    given, wrong = flipped(labels, 0.2)
    probabilities, issues = issues_of(features, given)
    # Without issues in the first round, all images are used in the second.
    module = "image_classifier.review.labels.find_label_issues"
    monkeypatch.setattr(module, lambda *_: np.empty(0, int))
    once = predict_held_out(reduce(features), given, round(0.7 * len(labels)))
    rows = np.arange(len(labels))
    assert probabilities[rows, labels].mean() > once[rows, labels].mean()
    hits = len(np.intersect1d(issues, wrong))
    assert hits >= len(np.intersect1d(find_label_issues(once, given), wrong))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_class_may_have_few_training_images(count: int):
    features, labels = clusters(3, 60, spread=0.5)
    rare = np.flatnonzero(labels == 2)[:count]
    kept = np.concatenate([rare, np.flatnonzero(labels != 2)])
    probabilities, issues = issues_of(features[kept], labels[kept])
    assert np.isfinite(probabilities).all() and len(issues) == 0


@pytest.mark.parametrize("rare", [2, 10])
def test_a_class_whose_labels_all_seem_wrong_is_still_learned(rare: int):
    """A few images of one class in two, which look like all others."""
    features = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    labels = np.zeros(200, np.int64)
    labels[:: 200 // rare] = 1
    probabilities, _ = issues_of(features - features.mean(axis=0), labels)
    assert probabilities[150:].min(axis=0)[1] > 0


@pytest.mark.parametrize(("counts", "found"), [((1, 1), 1), ((9, 1), 8)])
@pytest.mark.fault("Data", "too few training images for a review", "one-line error")
def test_too_few_training_images_are_an_error(counts: tuple[int, int], found: int):
    features, labels = clusters(2, 20)
    rows = [np.flatnonzero(labels == label)[:n] for label, n in enumerate(counts)]
    train = np.concatenate(rows)
    rows = np.concatenate([train, np.setdiff1d(np.arange(40), train)])
    with pytest.raises(InputError, match=f"^data/prepared: found {found} images of one") as error:
        predict_held_out(features[rows], labels[rows], len(train))
    assert "\n" not in str(error.value)


def test_four_training_images_are_enough():
    features, labels = clusters(2, 5, spread=0.1)
    probabilities, issues = issues_of(features, labels, train_share=0.4)
    assert probabilities.argmax(axis=1).tolist() == labels.tolist() and len(issues) == 0


def test_confident_learning_by_hand():
    # Mean probability of each class over its images: a 0.6, b 0.68, c 0.5. So row 3 counts as b,
    # row 6 as a, and row 2 as nothing. The others count as their label.
    probabilities = np.array(
        [
            [0.9, 0.05, 0.05],
            [0.8, 0.1, 0.1],
            [0.5, 0.3, 0.2],
            [0.2, 0.75, 0.05],
            [0.1, 0.9, 0.0],
            [0.1, 0.8, 0.1],
            [0.65, 0.35, 0.0],
            [0.2, 0.3, 0.5],
        ]
    )
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    issues = find_label_issues(probabilities, labels)
    assert issues.tolist() == [3, 6]  # by 0.55 and 0.3
    first = ConfusedClasses("a", "b", 2, 7)
    names = ["a", "b", "c"]
    assert confused_classes(probabilities, labels, np.empty(0, int), names) == [first]
    assert confused_classes(probabilities, labels, issues, names) == []
    assert confused_classes(probabilities, labels, issues[:1], names) == [
        first._replace(confused=1, images=6)
    ]


def test_confused_classes_are_sorted_by_their_share():
    labels = np.repeat([0, 1, 2, 3], [10, 10, 2, 2])
    predicted = labels.copy()
    predicted[[0, 1, 10]] = 1, 1, 0  # 3 of 20
    predicted[20] = 3  # 1 of 4
    confused = confused_classes(np.eye(4)[predicted], labels, np.empty(0, int), "abcd")
    assert confused == [ConfusedClasses("c", "d", 1, 4), ConfusedClasses("a", "b", 3, 20)]
