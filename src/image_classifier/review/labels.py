"""Labels that are probably wrong, by confident learning on the predictions of held-out models.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
https://arxiv.org/abs/1911.00068. docs/review.md has the measurements behind the choices here.
"""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from tqdm import tqdm

from image_classifier.common.errors import InputError
from image_classifier.common.progress import ProgressLines, progress_bar
from image_classifier.review.findings import ConfusedClasses, Finding

FOLDS = 5
CONFIDENT = 0.8  # a probability that is enough, even where the mean is higher
REGULARIZATION = 3.0  # scikit-learn's C, for features with a mean square length of 1


def predict_held_out(features: np.ndarray, labels: np.ndarray, train_count: int) -> np.ndarray:
    """Probabilities from models that have not seen the image, float32 (n, class_count).

    Each model is fitted on four fifths of the training images. It predicts the last fifth; for
    other images, the predictions of all five models are averaged. Then all models are fitted again
    without the training images whose labels are probably wrong, so that these teach nothing; a
    class keeps its images if all of them would be left out.

    Args:
        features: from `features.reduce`, float32 (n, d).
        labels: int64 (n,), each class at least once among the training images.
        train_count: number of training images, which come first.

    Raises:
        InputError: if there are too few training images.
    """
    rows = np.arange(train_count)
    with progress_bar("predicting classes", 2 * FOLDS, "fold") as progress:
        first = _predict(features, labels, train_count, rows, progress)
        wrong = find_label_issues(first, labels)
        return _predict(features, labels, train_count, np.setdiff1d(rows, wrong), progress)


def find_label_issues(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows of images whose label is probably wrong, the most certain first.

    A prediction counts if its probability is at least `CONFIDENT`, or the mean of that class's over
    the images with its label. Such predictions estimate, for each two classes, how many images have
    the label of one and show the other; that many are returned, those that favour the other class
    most ("prune by noise rate" in the article).

    Args:
        probabilities: float (n, class_count), of models that have not seen the image.
        labels: int64 (n,), each class at least once.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    thresholds = np.minimum(np.bincount(labels, own, minlength=len(counts)) / counts, CONFIDENT)
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    counted = confident.max(axis=1) >= 0
    joint = np.zeros((len(counts), len(counts)))
    np.add.at(joint, (labels[counted], confident[counted].argmax(axis=1)), 1)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, np.newaxis]

    issues = []
    np.fill_diagonal(joint, 0)
    for given, other in np.argwhere(joint >= 0.5):
        rows = np.flatnonzero(labels == given)
        margins = probabilities[rows, other] - own[rows]
        chosen = np.argsort(-margins, kind="stable")[: round(joint[given, other])]
        issues.append(rows[chosen[margins[chosen] > 0]])
    found = np.unique(np.concatenate(issues)) if issues else np.empty(0, int)
    return found[np.argsort(-_certainty(probabilities, labels)[found], kind="stable")]


def label_findings(
    probabilities: np.ndarray, labels: np.ndarray, issues: np.ndarray, class_names: Sequence[str]
) -> list[Finding]:
    """A finding for each row of `issues`, with the most likely class.

    The score is how much more likely that class is than the label.
    """
    certainty = _certainty(probabilities, labels)
    return [
        Finding(int(row), "label", class_names[probabilities[row].argmax()], float(certainty[row]))
        for row in issues
    ]


def confused_classes(
    probabilities: np.ndarray, labels: np.ndarray, issues: np.ndarray, class_names: Sequence[str]
) -> list[ConfusedClasses]:
    """Pairs of classes of which images are taken for each other, the largest share first.

    Images whose labels are probably wrong (`issues`, rows) do not count.
    """
    rows = np.setdiff1d(np.arange(len(labels)), issues)
    given, predicted = labels[rows], probabilities[rows].argmax(axis=1)
    images = np.bincount(given, minlength=len(class_names))
    wrong = given != predicted
    pairs = np.sort(np.stack([given[wrong], predicted[wrong]], axis=1), axis=1)
    confused = [
        ConfusedClasses(class_names[a], class_names[b], count, int(images[a] + images[b]))
        for (a, b), count in Counter(map(tuple, pairs.tolist())).items()
    ]
    return sorted(confused, key=lambda pair: -pair.confused / pair.images)


def _predict(
    features: np.ndarray,
    labels: np.ndarray,
    train_count: int,
    fitted: np.ndarray,
    progress: "tqdm | ProgressLines",
) -> np.ndarray:
    """As `predict_held_out`, with models fitted on the training images with the rows `fitted`."""
    probabilities = np.zeros((len(labels), labels.max() + 1), np.float32)
    others = np.arange(train_count, len(labels))
    folds = KFold(min(FOLDS, train_count), shuffle=True, random_state=0)
    parts = [
        (_with_all_classes(known, fitted, labels), unknown)
        for known, unknown in folds.split(np.arange(train_count))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        # A model predicts well before it converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = pool.map(lambda part: _fit(features[part[0]], labels[part[0]]), parts)
        for model, (_, unknown) in zip(models, parts, strict=True):
            for rows, share in ((unknown, 1), (others, 1 / len(parts))):
                if len(rows):
                    place = np.ix_(rows, model.classes_)
                    probabilities[place] += share * model.predict_proba(features[rows])
            progress.update()
    return probabilities


def _with_all_classes(known: np.ndarray, fitted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows that are in both `known` and `fitted`; of classes without any, all in `known`."""
    rows = np.intersect1d(known, fitted)
    lost = np.setdiff1d(labels[known], labels[rows])
    return np.union1d(rows, known[np.isin(labels[known], lost)])


def _fit(features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"data/prepared: found {len(labels):,} images of one class in {FOLDS - 1} of {FOLDS} "
            "parts of the training images; allowed: two classes, so add images"
        )
    return LogisticRegression(C=REGULARIZATION).fit(features, labels)


def _certainty(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much more likely the most likely class is than the label, 0 to 1, (n,)."""
    return probabilities.max(axis=1) - probabilities[np.arange(len(labels)), labels]
