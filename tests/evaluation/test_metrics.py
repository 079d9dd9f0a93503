import json
from pathlib import Path

import numpy as np
import pytest
from dvclive import Live
from scipy.stats import binomtest
from sklearn import calibration, metrics

from image_classifier.evaluation.metrics import (
    accuracy_interval,
    calibration_curve,
    expected_calibration_error,
    log_curves,
    per_class,
    precision_recall_curve,
    roc_curve,
    summarise,
    thinned,
    well_filled,
)
from image_classifier.outputs.sheets import worst_first

LABELS = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], np.float32)


def test_metrics_worked_by_hand():
    summary = summarise(LABELS, PROBABILITIES, calibration_bins=10)
    assert list(summary) == ["accuracy", "loss", "f1", "calibration_error"]
    assert summary["accuracy"] == 0.75
    assert summary["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.8]).mean(), rel=1e-6)
    assert summary["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    first, second = per_class(LABELS, PROBABILITIES, ["a", "b"])
    assert first == {
        "class": "a",
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "roc_auc": 1.0,
        "support": 2,
    }
    assert (second["precision"], second["recall"]) == (pytest.approx(2 / 3), 1.0)


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # With z = 1.96: z**2 / (n + z**2), and 1 minus that.
        (20, 20, 0.8389, 1),
        (0, 1, 0, 0.7935),
        (1, 1, 0.2065, 1),
    ],
)
def test_the_interval_of_the_accuracy(correct: int, images: int, low: float, high: float):
    labels = (np.arange(images) >= correct).astype(int)  # the prediction is class 0
    found = accuracy_interval(labels, np.tile([0.9, 0.1], (images, 1)))
    assert found == {
        "accuracy": round(correct / images, 6),
        "low": pytest.approx(low, abs=5e-5),
        "high": pytest.approx(high, abs=5e-5),
        "confidence": 0.95,
        "images": images,
        "correct": correct,
    }
    json.dumps(found)


def test_calibration_error_worked_by_hand():
    confidence = np.array([0.95, 0.55, 0.65, 0.85])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 0, 0])  # the second prediction is wrong
    # With two bins all are in the upper one: mean confidence 0.75, accuracy 0.75.
    assert expected_calibration_error(labels, probabilities, bins=2) == pytest.approx(0, abs=1e-9)
    # With ten bins each stands alone: gaps 0.05, 0.55, 0.35, 0.15.
    assert expected_calibration_error(labels, probabilities, bins=10) == pytest.approx(0.275)


def test_a_calibrated_classifier_has_a_small_error():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 20_000)
    labels = (generator.uniform(size=20_000) > confidence).astype(int)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    assert expected_calibration_error(labels, probabilities, bins=10) < 0.015
    assert expected_calibration_error(1 - labels, probabilities, bins=10) > 0.4


def test_classes_that_do_not_occur_are_no_error():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32)
    assert summarise(np.array([0, 1]), probabilities, calibration_bins=5)["accuracy"] == 1.0
    *others, absent = per_class(np.array([0, 1]), probabilities, ["a", "b", "c"])
    assert [row["roc_auc"] for row in others] == [1.0, 1.0]
    assert absent.pop("class") == "c" and absent.pop("roc_auc") is None
    assert set(absent.values()) == {0}
    (alone, _, _) = per_class(np.array([0, 0]), probabilities, ["a", "b", "c"])
    assert alone["roc_auc"] is None  # there is no image of another class


def test_thinned_scores_keep_the_curve_with_few_points():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 100_000)
    scores = 1 / (1 + np.exp(-generator.normal(4 * truth - 2, 3)))
    few = thinned(scores)
    assert len(np.unique(few)) <= 650
    assert metrics.roc_auc_score(truth, few) == pytest.approx(
        metrics.roc_auc_score(truth, scores), abs=1e-4
    )
    assert (np.diff(few[np.argsort(scores)]) >= 0).all()
    assert (thinned(scores[:1000]) == scores[:1000]).all()


@pytest.mark.parametrize(("images", "class_count"), [(3, 3), (40, 2), (500, 5)])
@pytest.mark.parametrize("decimals", [1, 9], ids=["equal scores", "different scores"])
def test_metrics_and_curves_equal_those_of_other_libraries(
    images: int, class_count: int, decimals: int
):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, class_count, images)
    labels[:2] = 0, 1
    logits = generator.normal(size=(images, class_count)).round(decimals)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions, names = probabilities.argmax(axis=1), [str(n) for n in range(class_count)]
    summary = summarise(labels, probabilities, calibration_bins=10)
    numbers = {"labels": range(class_count), "zero_division": 0}
    assert summary["accuracy"] == metrics.accuracy_score(labels, predictions)
    expected = metrics.log_loss(labels, probabilities, labels=range(class_count))
    assert summary["loss"] == pytest.approx(expected, rel=1e-12)
    assert summary["f1"] == metrics.f1_score(labels, predictions, average="macro", **numbers)
    rows = per_class(labels, probabilities, names)
    columns = ("precision", "recall", "f1", "support")
    found = [[row[column] for row in rows] for column in columns]
    expected = metrics.precision_recall_fscore_support(labels, predictions, **numbers)
    np.testing.assert_array_equal(found, expected)
    positive, scores = labels == 1, probabilities[:, 1]
    assert rows[1]["roc_auc"] == metrics.roc_auc_score(positive, scores)
    correct = int((predictions == labels).sum())
    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    accuracy = accuracy_interval(labels, probabilities)
    assert [accuracy["low"], accuracy["high"]] == pytest.approx(interval, abs=1e-6)

    np.testing.assert_array_equal(
        [*roc_curve(positive, scores).values()], metrics.roc_curve(positive, scores)
    )
    *found, thresholds = precision_recall_curve(positive, scores).values()
    *expected, expected_thresholds = metrics.precision_recall_curve(
        positive, scores, drop_intermediate=True
    )
    # scikit-learn adds a last point without a threshold, which DVC would not draw.
    np.testing.assert_array_equal(found, [values[:-1] for values in expected])
    np.testing.assert_array_equal(thresholds, expected_thresholds)
    np.testing.assert_array_equal(
        [*calibration_curve(positive, scores, 10).values()],
        calibration.calibration_curve(positive, scores, n_bins=10),
    )


@pytest.mark.parametrize("class_count", [2, 10])
def test_curves_of_many_images_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, class_count: int
):
    monkeypatch.chdir(tmp_path)  # no Git repository, for DVCLive
    generator = np.random.default_rng(0)
    labels = generator.integers(0, class_count, 20_000)
    logits = generator.normal(size=(20_000, class_count))
    logits[np.arange(20_000), labels] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with Live("live", save_dvc_exp=False, dvcyaml=False) as live:
        log_curves(live, labels, probabilities, bins=10)
    for name in ("roc", "precision_recall", "calibration"):
        content = (tmp_path / f"live/plots/sklearn/{name}.json").read_bytes()
        assert len(content) < 100_000
        assert 5 < len(json.loads(content)[name]) <= 655


def calibration_of(positive_scores: list[float], labels: list[int], folder: Path) -> list[dict]:
    """The calibration curve of two classes, in ten bins."""
    scores = np.array(positive_scores, np.float32)
    with Live(str(folder / "live"), save_dvc_exp=False, dvcyaml=False) as live:
        log_curves(live, np.array(labels), np.stack([1 - scores, scores], axis=1), bins=10)
    return json.loads((folder / "live/plots/sklearn/calibration.json").read_text())["calibration"]


def test_the_calibration_curve_leaves_out_small_bins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # no Git repository, for DVCLive
    scores = [0.05] * 10 + [0.55] * 9 + [0.75] * 3 + [0.95] * 12
    labels = [0] * 9 + [1] + [1] * 9 + [0] * 3 + [1] * 9 + [0] * 3
    low, high = calibration_of(scores, labels, tmp_path)
    assert low == {"prob_pred": pytest.approx(0.05), "prob_true": 0.1}
    assert high == {"prob_pred": pytest.approx(0.95), "prob_true": 0.75}


def test_a_small_test_set_has_one_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (point,) = calibration_of([0.1, 0.4, 0.7, 0.8], [0, 0, 1, 1], tmp_path)
    assert point == {"prob_pred": pytest.approx(0.5), "prob_true": 0.5}


def test_the_bins_that_are_counted_are_those_of_the_curve():
    """Scores on the edge of two bins count for the bin that scikit-learn puts them in."""
    scores = np.repeat(np.linspace(0, 1, 11), 10)
    counted, bins = well_filled(scores, 10)
    assert counted.all() and bins == 10
    assert len(calibration.calibration_curve(scores > 0.5, scores, n_bins=10)[0]) == 10
    counted, _ = well_filled(np.concatenate([scores, [0.13]]), 20)
    assert counted[:-1].all() and not counted[-1]


def test_the_worst_predictions_come_first():
    # Wrong by 0.2; right by 0.8, by 0.4 and by 0.6.
    assert worst_first(LABELS, PROBABILITIES).tolist() == [1, 2, 3, 0]
