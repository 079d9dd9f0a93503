"""Test images on which experiments disagree: fixed, newly broken, or wrong in another way.

Also whether chance explains the difference between two experiments: see `p_values`.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import bdtr  # scipy.stats takes another second to load

from image_classifier.common.images import load_image
from image_classifier.experiments.results import Results
from image_classifier.pages.thumbnails import Loader

RAW = "data/raw"
MAX_IMAGES = 2000  # on the page
ABSENT = -1  # instead of a class: not a test image of this experiment
P_DECIMALS = 4  # of p-values on the page
NO_NUMBER = -1  # instead of a percentage: the model's probability is NaN


def changed_predictions(results: Sequence[Results]) -> tuple[dict, list[Loader]]:
    """Compare the predictions of each pair of experiments.

    Returns:
        The comparison, and loaders of its images.

        `common`, `fixed` and `other_mistakes` are counts of test images for each pair of
        experiments: images that both have; images that are wrong in the first experiment and right
        in the second (with the pair swapped: newly broken); images that are wrong in both, with
        different predictions. `p_values`, also for each pair, are those of `fixed`. `test_images`
        are the images on which experiments disagree, most disputed first; `left_out` is the number
        of such images that are not included. `predicted` (a position in `classes`) and `percent`
        (the probability of that class) have a list for each experiment, with an entry for each of
        `test_images`.
    """
    keys = [_image_keys(result) for result in results]
    columns = {key: column for column, key in enumerate(dict.fromkeys(chain(*keys)))}
    predictions = [result.predictions for result in results]
    classes = sorted({name for p in predictions for name in chain(p.class_names, p.predicted)})
    numbers = {name: number for number, name in enumerate(classes)}

    true = np.array([numbers[class_name] for _, class_name, _ in columns], int)
    predicted = np.full((len(results), len(columns)), ABSENT)
    percent = np.full(predicted.shape, NO_NUMBER)
    for row, of_experiment in enumerate(predictions):
        places = [columns[key] for key in keys[row]]
        predicted[row, places] = [numbers[name] for name in of_experiment.predicted]
        percentages = 100 * np.array(of_experiment.probabilities)
        percent[row, places] = np.nan_to_num(percentages, nan=NO_NUMBER).round()

    present, right = predicted != ABSENT, predicted == true
    wrong = present & ~right
    other_mistakes = np.zeros((len(results), len(results)), int)
    disputes = np.zeros(len(columns), int)  # ordered pairs of experiments that disagree
    for row in range(len(results)):
        differs = (predicted != predicted[row]) & present & present[row]
        disputes += differs.sum(axis=0)
        other_mistakes[row] = (differs & wrong & wrong[row]).sum(axis=1)
    fixed = _count(wrong, right)
    disputed = np.argsort(-disputes, kind="stable")[: np.count_nonzero(disputes)]
    kept = disputed[:MAX_IMAGES]

    test_images = [list(columns)[column] for column in kept]
    owners = [results[row].experiment for row in present[:, kept].argmax(axis=0)]
    comparison = {
        "common": _count(present, present).tolist(),
        "fixed": fixed.tolist(),
        "p_values": p_values(fixed).round(P_DECIMALS).tolist(),
        "other_mistakes": other_mistakes.tolist(),
        "classes": classes,
        "test_images": [{"path": path, "class": numbers[name]} for path, name, _ in test_images],
        "left_out": len(disputed) - len(kept),
        "predicted": predicted[:, kept].tolist(),
        "percent": percent[:, kept].tolist(),
    }
    loaders = [
        partial(_load_square, owner.cached_file(f"{RAW}/{path}"))
        for owner, (path, _, _) in zip(owners, test_images, strict=True)
    ]
    return comparison, loaders


def p_values(fixed: np.ndarray) -> np.ndarray:
    """Probability that equally good models differ at least as much by chance, float64 (n, n).

    `fixed`, int (n, n), has the number of images that are wrong in the experiment of the row and
    right in that of the column. If two models are equally good, an image that only one of them has
    right is as likely to be fixed as newly broken. This is the exact, two-sided form of the test of
    McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or
    Percentages", https://doi.org/10.1007/BF02295996. Dietterich, "Approximate Statistical Tests for
    Comparing Supervised Classification Learning Algorithms",
    https://doi.org/10.1162/089976698300017197, recommends it for models that are trained once.
    """
    fewer, differing = np.minimum(fixed, fixed.T), fixed + fixed.T
    # Both tails; with as many fixed as broken they overlap.
    return np.minimum(1, 2 * bdtr(fewer, differing, 0.5))


def _image_keys(result: Results) -> list[tuple[str, str, str | None]]:
    """Path, class and hash of each test image; equal keys in two experiments: the same image."""
    paths, class_names, *_ = result.predictions
    hashes = result.experiment.hashes(RAW)
    # If the listing of the images is not in the cache, use the hash of the dataset for all.
    dataset = result.experiment.hash_of(RAW)
    return [
        (path, class_name, hashes.get(path, dataset))
        for path, class_name in zip(paths, class_names, strict=True)
    ]


def _count(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Count the images in both, for each pair of rows of two bool (experiments, images)."""
    # NumPy multiplies floats many times faster.
    return (first.astype(np.float32) @ second.astype(np.float32).T).astype(int)


def _load_square(file: Path | None, width: int) -> Image.Image:
    """Decode an image as for the network, without enlarging it."""
    if file is None:
        raise FileNotFoundError("not in DVC's cache")
    with Image.open(file) as image:
        width = min(width, max(image.size))
    return Image.fromarray(load_image(file, width, "rgb"))
