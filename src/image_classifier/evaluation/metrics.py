"""Metrics and curves of a classifier, from its probabilities.

They equal those of scikit-learn, which takes more than a second to load.
"""

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
from dvclive import Live
from dvclive.serialize import dump_json

MAX_CURVE_POINTS = 1000
CONFIDENCE = 0.95  # of the interval of the accuracy
MIN_BIN_SIZE = 10  # decisions in a bin of the calibration curve; of fewer, a fraction is noise


def summarise(
    labels: np.ndarray, probabilities: np.ndarray, calibration_bins: int
) -> dict[str, float]:
    """Summary metrics, given labels, int64 (n,), and probabilities, float32 (n, class_count).

    They are top-1 accuracy; loss (mean negative log-likelihood, in nats); F1, averaged over the
    classes; and the expected calibration error.
    """
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=float)
    rounding = np.finfo(float).eps  # a probability of 0 would make the loss infinite
    of_labels = probabilities[np.arange(len(labels)), labels].clip(rounding, 1 - rounding)
    _, _, f1, _ = _rates(labels, probabilities)
    return {
        "accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
        "loss": float(-np.log(of_labels).mean()),
        "f1": float(f1.mean()),
        "calibration_error": expected_calibration_error(labels, probabilities, calibration_bins),
    }


def accuracy_interval(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | int]:
    """The accuracy with its confidence interval, and the counts that both are computed from.

    Arguments as for `summarise`, n >= 1; fractions have 6 decimals. If the images are a random
    sample, 95% of such intervals contain the accuracy on all images that it could have been drawn
    from. This is the interval of Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference", https://doi.org/10.1080/01621459.1927.10502953, which also suits few
    images and accuracies near 1.
    """
    images, correct = len(labels), int((probabilities.argmax(axis=1) == labels).sum())
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (correct + z**2 / 2) / (images + z**2)
    half = z * math.sqrt(correct * (images - correct) / images + z**2 / 4) / (images + z**2)
    return {
        "accuracy": round(correct / images, 6),
        "low": round(max(0.0, middle - half), 6),
        "high": round(min(1.0, middle + half), 6),
        "confidence": CONFIDENCE,
        "images": images,
        "correct": correct,
    }


def per_class(
    labels: np.ndarray, probabilities: np.ndarray, class_names: list[str]
) -> list[dict[str, str | float | int]]:
    """Precision, recall, F1, area under the ROC curve and number of images ("support") per class.

    The ROC curve sets the class against the rest; where one of the two has no image, its area is
    None.
    """
    precision, recall, f1, counts = _rates(labels, probabilities)
    return [
        {
            "class": name,
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
            "roc_auc": roc_area(labels == number, probabilities[:, number])
            if 0 < counts[number] < len(labels)
            else None,
            "support": int(counts[number]),
        }
        for number, name in enumerate(class_names)
    ]


def _rates(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1, float64 (class_count,), 0 where undefined; and number of images."""
    predictions, class_count = probabilities.argmax(axis=1), probabilities.shape[1]
    right = np.bincount(labels[predictions == labels], minlength=class_count)
    predicted = np.bincount(predictions, minlength=class_count)
    counts = np.bincount(labels, minlength=class_count)
    # Of a class without predictions or images, no prediction is right: 0 / 1.
    precision, recall = right / predicted.clip(1), right / counts.clip(1)
    return precision, recall, 2 * right / (predicted + counts).clip(1), counts


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """Mean difference between confidence and accuracy; 0 is best.

    Predictions are put into `bins` of equal width by their confidence (the probability of the
    predicted class). The result is the mean over all bins, weighted by their sizes, of the absolute
    difference between mean confidence and accuracy: equation 3 of Guo et al., "On Calibration of
    Modern Neural Networks", https://arxiv.org/abs/1706.04599.
    """
    confidence = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == labels
    # Intervals include their upper end, as in the paper: (0, 1/bins], ..., (1 - 1/bins, 1].
    positions = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(positions, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def log_curves(live: Live, labels: np.ndarray, probabilities: np.ndarray, bins: int) -> None:
    """Log the ROC, precision-recall and calibration curves.

    With two classes, the second is the positive one. With more, each image gives a decision for
    each class (is it this class or another?), and all decisions are pooled: the micro-average. The
    calibration curve has a point for each of `bins` with at least `MIN_BIN_SIZE` decisions.
    """
    if probabilities.shape[1] == 2:
        positive, scores = labels == 1, probabilities[:, 1]
    else:
        positive = (labels[:, None] == np.arange(probabilities.shape[1])).ravel()
        scores = probabilities.ravel()
    if positive.all() or not positive.any():
        return  # no curve is defined
    scores = scores.astype(float)
    counted, bins = well_filled(scores, bins)
    few = thinned(scores)
    curves = {
        "calibration": calibration_curve(positive[counted], scores[counted], bins),
        "roc": roc_curve(positive, few),
        "precision_recall": precision_recall_curve(positive, few),
    }
    for name, columns in curves.items():
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        points = [dict(zip(columns, row, strict=True)) for row in rows]
        # As `Live.log_sklearn_plot`, which loads scikit-learn, writes it.
        dump_json({name: points}, Path(live.plots_dir, "sklearn", f"{name}.json"))


def calibration_curve(positive: np.ndarray, scores: np.ndarray, bins: int) -> dict[str, np.ndarray]:
    """The fraction of positive decisions and the mean probability in each bin that has any.

    Arguments as for `roc_curve`, with probabilities as scores; the bins are of equal width.
    """
    positions = _positions(scores, bins)
    counts = np.bincount(positions, minlength=bins)
    filled = counts > 0
    return {
        "prob_true": np.bincount(positions, positive, bins)[filled] / counts[filled],
        "prob_pred": np.bincount(positions, scores, bins)[filled] / counts[filled],
    }


def roc_curve(positive: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """The false and the true positive rate for each threshold, without points on a straight line.

    `positive` is bool (n,), with both values; `scores` are floats (n,).
    """
    false, true, thresholds = _counts_above(positive, scores)
    corner = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    kept = np.concatenate([[True], corner, [True]])[: len(false)]
    return {
        "fpr": np.append(0, false[kept] / false[-1]),
        "tpr": np.append(0, true[kept] / true[-1]),
        "threshold": np.append(np.inf, thresholds[kept]),
    }


def roc_area(positive: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve; arguments as for `roc_curve`."""
    curve = roc_curve(positive, scores)
    return float((np.diff(curve["fpr"]) * (curve["tpr"][1:] + curve["tpr"][:-1]) / 2).sum())


def precision_recall_curve(positive: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Precision and recall for each threshold; of equal recall, the first and the last point.

    Arguments as for `roc_curve`.
    """
    false, true, thresholds = _counts_above(positive, scores)
    changes = np.diff(true) != 0
    kept = np.concatenate([[True], changes[:-1] | changes[1:], [True]])[: len(true)]
    false, true, thresholds = false[kept][::-1], true[kept][::-1], thresholds[kept][::-1]
    return {
        "precision": true / (true + false),
        "recall": true / true[0],
        "threshold": thresholds,
    }


def _counts_above(
    positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of negative and positive decisions at or above each score, and the falling scores."""
    thresholds, positions = np.unique(-scores, return_inverse=True)
    true = np.bincount(positions, positive).cumsum()
    return np.bincount(positions).cumsum() - true, true, -thresholds


def well_filled(scores: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """Leave out the probabilities, float64 (n,), in bins with fewer than `MIN_BIN_SIZE` of them.

    Returns:
        Which scores remain, bool (n,), and the number of bins of equal width: `bins`, or one with
        all scores if every bin has too few.
    """
    positions = _positions(scores, bins)
    counted = np.bincount(positions)[positions] >= MIN_BIN_SIZE
    return (counted, bins) if counted.any() else (~counted, 1)


def _positions(scores: np.ndarray, bins: int) -> np.ndarray:
    """The bin, of `bins` of equal width, of each probability, which is its upper end or below."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], scores)


def thinned(scores: np.ndarray) -> np.ndarray:
    """Round probabilities, float64 (n,), so that a curve has at most about 650 points.

    A curve has a point for each distinct score; a million points crash the extension. Log-odds are
    rounded to 1/20: this keeps scores near 0 and 1 apart, where most scores are. Up to
    `MAX_CURVE_POINTS` scores are returned unchanged.
    """
    if len(scores) <= MAX_CURVE_POINTS:
        return scores
    scores = np.clip(scores, 1e-7, 1 - 1e-7)
    log_odds = np.round(np.log(scores / (1 - scores)) * 20) / 20
    return 1 / (1 + np.exp(-log_odds))
