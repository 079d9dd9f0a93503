"""Features of images whose classes are known."""

import numpy as np


def clusters(
    classes: int, per_class: int, spread: float = 1.0, size: int = 32, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Centred features, float32 (n, size), and labels of classes that are far apart.

    The classes take turns, so the first images are of all classes.
    """
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, size))
    centres *= 6 / np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.tile(np.arange(classes), per_class)
    features = centres[labels] + spread * generator.normal(size=(len(labels), size))
    return (features - features.mean(axis=0)).astype(np.float32), labels
