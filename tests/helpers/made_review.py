"""Findings without an analysis: images on disk, and what a review says of them."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from helpers.images import encoded, noisy_image
from image_classifier.computing.corrections import Correction
from image_classifier.computing.prepared import ImageRecord, class_names_of
from image_classifier.review.findings import ConfusedClasses, Finding, Review


def write_records(
    root: Path, rows: Iterable[tuple[str, str]], size: tuple[int, int] = (24, 24)
) -> list[ImageRecord]:
    """Write different images with these classes and splits: 0.png, 1.png, ..."""
    records = []
    for number, (class_name, split) in enumerate(rows):
        content = encoded(noisy_image(number, size))
        (root / f"{number}.png").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        records.append(ImageRecord(f"{number}.png", class_name, split, sha256))
    return records


def made_review(
    records: list[ImageRecord],
    findings: Sequence[Finding] = (),
    confused: Sequence[ConfusedClasses] = (),
    corrections: Sequence[Correction] = (),
) -> Review:
    """A review that is sure of the class that a label finding suggests, by 90%."""
    class_names = class_names_of(records)
    probabilities = np.full((len(records), len(class_names)), 0.1 / (len(class_names) - 1))
    for finding in findings:
        if finding.kind == "label":
            probabilities[finding.image, class_names.index(finding.suggested)] = 0.9
    return Review(
        records,
        class_names,
        probabilities.astype(np.float32),
        list(findings),
        list(confused),
        list(corrections),
        "0" * 64,
    )
