"""Features of all prepared images: one row for each image, whatever the backbone."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection

from image_classifier.common.progress import progress_bar
from image_classifier.computing.openvino_model import build_function, shape_of
from image_classifier.computing.prepared import PreparedSplit, Shards, check_shape
from image_classifier.evaluation.steps import check_classes
from image_classifier.outputs.openvino_file import OPENVINO_FILE, load_translated

IMAGES_AT_ONCE = 256
# Longer features, such as the maps of a small network on large images, would not fit in memory. A
# random projection changes distances by about 1 / sqrt(MAX_FEATURES), 2%.
MAX_FEATURES = 2048
REDUCED_FEATURES = 256
SAMPLE = 20_000  # images from which `reduce` learns the principal components


def read_features(splits: Sequence[PreparedSplit], class_names: list[str]) -> np.ndarray:
    """Features of the images of some splits, centred, float32 (n, d).

    With a frozen backbone these are the prepared features, averaged over the views. Otherwise the
    trained model's feature extractor computes them from the prepared pixels. Not the layer after
    it: what a trained layer gives depends on the label of an image, even if that is wrong.

    Raises:
        InputError: if the model is needed, and is missing or does not fit the prepared images.
    """
    if splits[0].views.ndim == 3:
        compute, description = _average, "reading features"
    else:
        compute, description = _extractor(splits[0].views, class_names), "computing features"
    parts, project = [], None
    with progress_bar(description, sum(len(split.labels) for split in splits)) as progress:
        for split in splits:
            for start in range(0, len(split.labels), IMAGES_AT_ONCE):
                part = compute(split.views, slice(start, start + IMAGES_AT_ONCE))
                project = project or _projection(part)
                parts.append(project(part))
                progress.update(len(part))
    features = np.concatenate(parts)
    features -= features.mean(axis=0, dtype=np.float64)  # exactly 0 if all are equal
    return features


def reduce(features: np.ndarray) -> np.ndarray:
    """The principal components of centred features, with a mean square length of 1.

    Returns:
        float32 (n, min(d, n, `REDUCED_FEATURES`)).
    """
    rows = np.random.default_rng(0).permutation(len(features))[:SAMPLE]
    count = min(REDUCED_FEATURES, len(rows), features.shape[1])
    with np.errstate(invalid="ignore"):  # the shares of the variance, if that is 0
        model = PCA(count, random_state=0).fit(features[np.sort(rows)])
    components = model.transform(features)
    scale = np.sqrt(np.mean(np.sum(components**2, axis=1)))
    return (components / (scale or 1)).astype(np.float32, copy=False)


def _average(views: Shards, rows: slice) -> np.ndarray:
    return np.mean([views[view, rows] for view in range(len(views))], axis=0)


def _extractor(views: Shards, class_names: list[str]) -> Callable[[Shards, slice], np.ndarray]:
    trained = load_translated(OPENVINO_FILE)
    check_classes(trained, class_names)
    check_shape(views, shape_of(trained.network.input(0))[1:])
    extract = build_function(trained.network, "features")
    return lambda views, rows: extract(views[0, rows])


def _projection(part: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that shortens features if they are longer than `MAX_FEATURES`."""
    if part.shape[1] <= MAX_FEATURES:
        return lambda features: features
    projection = SparseRandomProjection(MAX_FEATURES, dense_output=True, random_state=0).fit(part)
    return projection.transform
