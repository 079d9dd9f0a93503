"""Near duplicates, and images unlike all others, by the distance to the nearest neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from image_classifier.common.progress import progress_bar
from image_classifier.computing.prepared import SPLITS, ImageRecord
from image_classifier.review.findings import Finding

COUNT = 10  # neighbours of each image
IMAGES_AT_ONCE = 512
# Near duplicates are closer than these shares of the distance to a tenth neighbour: of the
# dataset's median, or of the median and the two images' own. docs/review.md has the measurements.
NEAR, NEAR_BOTH = 0.5, 0.6
# Outliers are further from their neighbours than the upper quartile, by more than this multiple of
# the distance between the quartiles (Tukey, Exploratory Data Analysis, 1977).
FENCE = 1.5


class Neighbours(NamedTuple):
    """The nearest neighbours of each image, the nearest first."""

    rows: np.ndarray  # int64 (n, k): their rows
    distances: np.ndarray  # float32 (n, k): between features of length 1, so 0 to 2


def find_neighbours(features: np.ndarray, reduced: np.ndarray) -> Neighbours:
    """The `COUNT` nearest neighbours of each image, or all if there are fewer.

    Neighbours are looked for in few dimensions, and their distances measured in all. Memory does
    not grow with the square of n: neighbours are looked for in blocks.

    Args:
        features: centred, float32 (n, d); normalised in place.
        reduced: from `features.reduce`, float32 (n, e).
    """
    normalize(features, copy=False)
    reduced = normalize(reduced)
    count = min(COUNT, len(features) - 1)
    # One more: an image is its own neighbour.
    index = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(reduced)
    found = Neighbours(
        np.empty((len(features), count), np.int64), np.empty((len(features), count), np.float32)
    )
    with progress_bar("comparing images", len(features)) as progress:
        for start in range(0, len(features), IMAGES_AT_ONCE):
            block = np.arange(start, min(start + IMAGES_AT_ONCE, len(features)))
            rows = index.kneighbors(reduced[block], return_distance=False)
            similarities = np.einsum("nd,nkd->nk", features[block], features[rows])
            similarities[rows == block[:, np.newaxis]] = -np.inf  # last
            order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
            found.rows[block] = np.take_along_axis(rows, order, axis=1)
            nearest = np.take_along_axis(similarities, order, axis=1)
            found.distances[block] = np.sqrt(np.maximum(0, 2 - 2 * nearest))
            progress.update(len(block))
    return found


def near_duplicates(neighbours: Neighbours, records: Sequence[ImageRecord]) -> list[Finding]:
    """A finding for each pair of near duplicates, pairs across splits first.

    Of a pair across splits, the finding is about the image that is less held out. Files with equal
    bytes are not reported. The score is the cosine similarity of the features.
    """
    own = neighbours.distances[:, -1]
    typical = np.median(own)
    limit = np.minimum(own, own[neighbours.rows].T).T  # of both images
    near = neighbours.distances <= np.maximum(
        NEAR * typical, NEAR_BOTH * np.minimum(limit, typical)
    )
    found: dict[tuple[int, int], Finding] = {}
    for row, place in np.argwhere(near).tolist():
        pair = sorted(
            (row, int(neighbours.rows[row, place])),
            key=lambda image: (SPLITS.index(records[image].split), image),
        )
        if records[pair[0]].sha256 != records[pair[1]].sha256:
            similarity = 1 - float(neighbours.distances[row, place]) ** 2 / 2
            path = records[pair[1]].path
            found[tuple(pair)] = Finding(pair[0], "near_duplicate", path, similarity)

    def order(pair: tuple[int, int]) -> tuple[bool, float]:
        first, second = pair
        return records[first].split == records[second].split, -found[pair].score

    return [found[pair] for pair in sorted(found, key=order)]


def outliers(neighbours: Neighbours) -> list[Finding]:
    """A finding for each image unlike all others, the most unlike first.

    The score is half the mean distance to its neighbours.
    """
    distances = neighbours.distances.mean(axis=1)
    low, high = np.quantile(distances, [0.25, 0.75])
    found = np.flatnonzero(distances > high + FENCE * (high - low))
    order = found[np.argsort(-distances[found], kind="stable")]
    return [Finding(int(row), "outlier", "", float(distances[row] / 2)) for row in order]
