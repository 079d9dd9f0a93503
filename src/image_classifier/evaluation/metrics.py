"""Metrics and curves of a classifier, from its probabilities."""

import numpy as np
from dvclive import Live
from scipy.stats import binomtest
from sklearn import metrics

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
    class_numbers = np.arange(probabilities.shape[1])
    predictions = probabilities.argmax(axis=1)
    return {
        "accuracy": float(metrics.accuracy_score(labels, predictions)),
        "loss": float(metrics.log_loss(labels, probabilities, labels=class_numbers)),
        "f1": float(
            metrics.f1_score(
                labels, predictions, labels=class_numbers, average="macro", zero_division=0
            )
        ),
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
    low, high = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "accuracy": round(correct / images, 6),
        "low": round(float(low), 6),
        "high": round(float(high), 6),
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
    numbers = np.arange(len(class_names))
    precision, recall, f1, counts = metrics.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=numbers, zero_division=0
    )
    return [
        {
            "class": name,
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
            "roc_auc": float(metrics.roc_auc_score(labels == number, probabilities[:, number]))
            if 0 < counts[number] < len(labels)
            else None,
            "support": int(counts[number]),
        }
        for number, name in enumerate(class_names)
    ]


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
    positive, scores = positive.astype(int), scores.astype(float)
    counted, bins = well_filled(scores, bins)
    live.log_sklearn_plot("calibration", positive[counted], scores[counted], n_bins=bins)
    scores = thinned(scores)
    live.log_sklearn_plot("roc", positive, scores)
    live.log_sklearn_plot("precision_recall", positive, scores, drop_intermediate=True)


def well_filled(scores: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """Leave out the probabilities, float64 (n,), in bins with fewer than `MIN_BIN_SIZE` of them.

    Returns:
        Which scores remain, bool (n,), and the number of bins of equal width: `bins`, or one with
        all scores if every bin has too few.
    """
    # The bins of scikit-learn's calibration_curve.
    positions = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], scores)
    counted = np.bincount(positions)[positions] >= MIN_BIN_SIZE
    return (counted, bins) if counted.any() else (~counted, 1)


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
