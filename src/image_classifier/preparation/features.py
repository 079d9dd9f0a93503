"""Hashes, pixels and features of images, for src/prepare.py.

Each function takes consecutive images, the number of the first image (a multiple of
`FEATURE_BATCH_SIZE`) and the number of threads. It yields parts of the result, each with the number
of its first image. Results do not depend on how the images are divided, nor on the machine.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from image_classifier.common.hashing import sha256_of
from image_classifier.common.images import (
    PILLOW_MODES,
    Content,
    Location,
    load_batches,
    unreadable_reason,
)
from image_classifier.common.params import Params, PrepareParams
from image_classifier.common.remote import RemoteFile, is_remote, read

if TYPE_CHECKING:
    from ray import ObjectRef

    from image_classifier.networks.tensorflow_setup import keras
    from image_classifier.preparation.extraction import Extract

FEATURE_BATCH_SIZE = 64
# Pixels per call of a GPU: 512 images of 180x180, for which most backbones need 2 to 5 GB. Too
# large a number is halved, but TensorFlow waits for memory for ten seconds each time.
PIXELS_AT_ONCE = 2**24
READS_AT_ONCE = 8  # remote images per thread: reading them is mostly waiting


class Examined(NamedTuple):
    """First result for an image: its hash, or why it cannot be decoded."""

    sha256: str | None  # of its content, in hexadecimal; None if it cannot be decoded
    reason: str | None = None  # why it cannot be decoded


def examine(
    locations: Sequence[str], first: int, threads: int
) -> Iterator[tuple[int, list[Examined]]]:
    """Hash images. Remote images are also decoded; src/download.py has checked local ones."""
    with ThreadPool(_threads(locations, threads)) as pool:
        results = pool.imap(_examine, locations, chunksize=8)
        while part := list(itertools.islice(results, FEATURE_BATCH_SIZE)):
            yield first, part
            first += len(part)


def compute_pixels(
    params: PrepareParams, locations: Sequence[Location], first: int, threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode images.

    Yields:
        uint8 (1, n, image_size, image_size, channels).
    """
    threads = _threads(locations, threads)
    size, color_mode = params.image_size, params.color_mode
    for batch in load_batches(locations, FEATURE_BATCH_SIZE, size, color_mode, threads):
        yield first, batch[np.newaxis]
        first += len(batch)


def compute_features(
    params: Params,
    split: str,
    weights: "ObjectRef | None",
    locations: Sequence[Location],
    first: int,
    threads: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Compute features of images with the frozen backbone.

    Training images give features of `prepare.views` augmented copies, other images of one
    unchanged copy.

    Args:
        params: all parameters.
        split: "train", "validation" or "test".
        weights: of the backbone, in Ray's object store (None: load them by `params.model`).
        locations, first, threads: see the docstring of the module.

    Yields:
        float32 (views, n, d).
    """
    batches, extract = _build_extractor(params, weights, threads)
    views = params.prepare.views if split == "train" else None
    size, color_mode = params.prepare.image_size, params.prepare.color_mode
    images = load_batches(
        locations, batches * FEATURE_BATCH_SIZE, size, color_mode, _threads(locations, threads)
    )
    groups = (group for pixels in images for group in _groups(pixels))
    for features in extract(groups, first // FEATURE_BATCH_SIZE, views):
        yield first, features
        first += features.shape[1]


def backbone_weights(params: Params) -> list[np.ndarray]:
    """The weights of the backbone that computes features, in the order of Keras."""
    return build_network(params).get_weights()


@lru_cache(maxsize=1)
def _build_extractor(
    params: Params, weights: "ObjectRef | None", threads: int
) -> tuple[int, "Extract"]:
    """The number of batches to pass in a group, and a function of `extraction`."""
    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.networks.tensorflow_setup import tf
    from image_classifier.preparation.extraction import build_on_cpu, build_on_gpu

    if weights is None:
        network = build_network(params)
    else:
        import ray

        unknown = params.model.model_copy(update={"weights": "random"})
        network = build_network(params.model_copy(update={"model": unknown}))
        network.set_weights(ray.get(weights))
    if tf.config.list_physical_devices("GPU"):
        images = PIXELS_AT_ONCE // params.prepare.image_size**2
        return max(1, images // FEATURE_BATCH_SIZE), build_on_gpu(network, params.prepare)
    return 1, build_on_cpu(network, params.prepare, threads)


def _groups(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Divide images, (n, ...), into batches of equal size, (batches, images, ...), and the rest."""
    whole = len(pixels) - len(pixels) % FEATURE_BATCH_SIZE
    if whole:
        yield pixels[:whole].reshape(-1, FEATURE_BATCH_SIZE, *pixels.shape[1:])
    if whole < len(pixels):
        yield pixels[np.newaxis, whole:]


@lru_cache(maxsize=1)
def build_network(params: Params) -> "keras.Model":
    """Build the frozen backbone, from pixels to features; the same one for the same parameters."""
    from image_classifier.networks.backbones import build_feature_extractor
    from image_classifier.networks.tensorflow_setup import make_deterministic

    make_deterministic(params.prepare.seed)
    channels = len(PILLOW_MODES[params.prepare.color_mode])
    return build_feature_extractor(params.model, params.prepare.image_size, channels)


def _examine(location: str) -> Examined:
    if not is_remote(location):
        return Examined(sha256_of(Path(location)))
    try:
        content = read(location)
    except OSError as error:  # missing or not readable
        return Examined(None, " ".join(str(error).split()) or type(error).__name__)
    reason = unreadable_reason(Content(location, content))
    return Examined(None if reason else hashlib.sha256(content).hexdigest(), reason)


def _threads(locations: Sequence[Location], cores: int) -> int:
    elsewhere = isinstance(locations[0], RemoteFile) or is_remote(str(locations[0]))
    return cores * READS_AT_ONCE if elsewhere else cores
