"""Numbers and curves that say how good a classifier is, from its probabilities."""

import numpy as np
from dvclive import Live
from sklearn import metrics

MAX_CURVE_POINTS = 1000
PER_CLASS = ("class", "precision", "recall", "f1", "support")


def summarise(
    labels: np.ndarray, probabilities: np.ndarray, calibration_bins: int
) -> dict[str, float]:
    """Figures of merit, given labels, int64 (n,), and probabilities, float32 (n, class_count).

    They are top-1 accuracy; loss (mean negative log-likelihood, in nats); precision, recall and F1,
    each averaged over the classes; expected calibration error; and the area under the ROC curve,
    one class against the rest, averaged over the classes that occur, if that are more than one.
    """
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=float)
    class_numbers = np.arange(probabilities.shape[1])
    predictions = probabilities.argmax(axis=1)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predictions, labels=class_numbers, average="macro", zero_division=0
    )
    occurring = np.intersect1d(class_numbers, labels)
    figures = {
        "accuracy": float(metrics.accuracy_score(labels, predictions)),
        "loss": float(metrics.log_loss(labels, probabilities, labels=class_numbers)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "expected_calibration_error": expected_calibration_error(
            labels, probabilities, calibration_bins
        ),
    }
    if len(occurring) > 1:
        figures["roc_auc"] = float(
            np.mean([metrics.roc_auc_score(labels == n, probabilities[:, n]) for n in occurring])
        )
    return figures


def per_class(
    labels: np.ndarray, probabilities: np.ndarray, class_names: list[str]
) -> list[dict[str, str | float | int]]:
    """Precision, recall, F1 and number of images ("support") of each class."""
    columns = metrics.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=np.arange(len(class_names)), zero_division=0
    )
    rows = zip(class_names, *(column.tolist() for column in columns), strict=True)
    return [dict(zip(PER_CLASS, row, strict=True)) for row in rows]


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """How far confidence is from accuracy, on average; 0 is best.

    Predictions are put into `bins` of equal width by their confidence (the probability of the
    predicted class). The result is the mean over bins, weighted by their sizes, of the difference
    between mean confidence and accuracy: equation 3 of Guo et al., "On Calibration of Modern
    Neural Networks", https://arxiv.org/abs/1706.04599.
    """
    confidence = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == labels
    # Intervals are closed above, as in the paper: (0, 1/bins], ..., (1 - 1/bins, 1].
    positions = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(positions, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def log_curves(live: Live, labels: np.ndarray, probabilities: np.ndarray, bins: int) -> None:
    """Log the ROC, precision-recall and calibration curves.

    Of two classes, the second counts as the positive one. Of more, each is set against the rest
    and all these decisions are pooled: the micro-average.
    """
    if probabilities.shape[1] == 2:
        positive, scores = labels == 1, probabilities[:, 1]
    else:
        positive = (labels[:, None] == np.arange(probabilities.shape[1])).ravel()
        scores = probabilities.ravel()
    if positive.all() or not positive.any():
        return  # there is nothing to set against each other
    positive, scores = positive.astype(int), scores.astype(float)
    live.log_sklearn_plot("calibration", positive, scores, n_bins=bins)
    scores = thinned(scores)
    live.log_sklearn_plot("roc", positive, scores)
    live.log_sklearn_plot("precision_recall", positive, scores, drop_intermediate=True)


def thinned(scores: np.ndarray) -> np.ndarray:
    """Merge probabilities, float64 (n,), so that a curve has at most 650 points or so.

    A curve has a point for each distinct score; a million of them crash what draws it. Scores are
    rounded in log-odds, to 1/20, which keeps those near 0 and 1 apart, where most of them lie. A
    few scores are left as they are.
    """
    if len(scores) <= MAX_CURVE_POINTS:
        return scores
    scores = np.clip(scores, 1e-7, 1 - 1e-7)
    log_odds = np.round(np.log(scores / (1 - scores)) * 20) / 20
    return 1 / (1 + np.exp(-log_odds))
