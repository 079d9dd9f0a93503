"""Run a frozen network as fast as possible on a CPU."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from image_classifier.computing import openvino_model
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.networks.translation import translate_extractor


def build_function(
    network: keras.Model, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Build a function of a network with its current weights, for batches of any size.

    The network is translated to OpenVINO, 2 to 6 times as fast as `network.predict`
    (benchmarks/README.md). Results differ from TensorFlow's in the last digits of float32.

    Args:
        network: from pixels of fixed size to features; its weights no longer change.
        threads: number of threads (None: one per core). Results do not depend on it.

    Returns:
        A function from an array (n, ...) of any numeric type to float32 (n, ...).
    """
    return openvino_model.build_function(translated(network), "features", threads=threads)


@lru_cache(maxsize=1)
def translated(network: keras.Model) -> openvino_model.openvino.Model:
    """The network, translated to OpenVINO once."""
    return translate_extractor(network)
