"""Images that show too little to learn from: of one colour, dark, blurred or tiny."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

from image_classifier.common.images import FORMATS, load_for_display
from image_classifier.common.progress import progress_bar
from image_classifier.review.findings import Finding

LONGER_SIDE = 128  # pixels, at which images are measured
IMAGES_AT_ONCE = 1024
# An image is of poor quality below one of these limits. None of 3,000 photos of cats and dogs is
# below the first three; docs/review.md has the measurements.
LIMITS = {
    "one colour": 16,  # grey levels between the darkest and the lightest percent, in any channel
    "dark": 64,  # grey level of the lightest percent
    "blurred": 0.12,  # contrast of the sharpest percent of edges, relative to that of the image
    "tiny": 0.25,  # shorter side, relative to the dataset's median
}


class Measures(NamedTuple):
    """What is measured of an image file."""

    shorter_side: int  # pixels
    tones: int  # largest difference between the darkest and the lightest percent, of any channel
    lightest: int  # grey level of the lightest percent
    sharpness: float  # see LIMITS["blurred"]


def poor_quality(paths: Sequence[Path]) -> list[Finding]:
    """Findings about image files, whose positions in `paths` are their rows; the worst first.

    The score is how far the measure is below its limit: 0 at the limit, 1 at 0.

    Raises:
        InputError: naming the file, if an image cannot be decoded.
    """
    measured = list(_measure_all(paths))
    typical = median(measures.shorter_side for measures in measured)
    findings = []
    for row, measures in enumerate(measured):
        values = {
            "one colour": measures.tones,
            "dark": measures.lightest,
            "blurred": measures.sharpness,
            "tiny": measures.shorter_side / typical,
        }
        problem = next((name for name, limit in LIMITS.items() if values[name] < limit), None)
        if problem:
            score = 1 - values[problem] / LIMITS[problem]
            findings.append(Finding(row, "quality", problem, score))
    return sorted(findings, key=lambda finding: -finding.score)


def measure(path: Path) -> Measures:
    """Measure an image file.

    Raises:
        InputError: naming the file, if it cannot be decoded.
    """
    # Decoded first: an error then names the file. An enlarged image would be blurred.
    image = load_for_display(path, LONGER_SIDE, enlarge=False)
    with Image.open(path, formats=FORMATS) as file:
        shorter_side = min(file.size)
    gray = image.convert("L")
    pixels = np.asarray(gray, np.int16)
    # The discrete Laplacian; one row or column has no edges.
    edges = np.abs(
        pixels[:-2, 1:-1]
        + pixels[2:, 1:-1]
        + pixels[1:-1, :-2]
        + pixels[1:-1, 2:]
        - 4 * pixels[1:-1, 1:-1]
    )
    contrast = _range(gray.histogram())
    sharpness = _level(np.bincount(edges.ravel()), 0.99) / max(1, contrast) if edges.size else 1
    return Measures(
        shorter_side=shorter_side,
        tones=max(_range(channel.histogram()) for channel in image.split()),
        lightest=_level(gray.histogram(), 0.99),
        sharpness=sharpness,
    )


def _measure_all(paths: Sequence[Path]) -> Iterator[Measures]:
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar("measuring quality", len(paths)) as progress,
    ):
        for start in range(0, len(paths), IMAGES_AT_ONCE):
            for measures in pool.map(measure, paths[start : start + IMAGES_AT_ONCE]):
                progress.update()
                yield measures


def _range(histogram: Sequence[int]) -> int:
    """Levels between the first and the last percent of the pixels."""
    return _level(histogram, 0.99) - _level(histogram, 0.01)


def _level(histogram: Sequence[int], share: float) -> int:
    """The smallest level that this share of the pixels does not exceed."""
    counts = np.cumsum(histogram)
    return int(np.searchsorted(counts, share * counts[-1]))
