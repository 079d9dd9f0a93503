"""What a review finds, and review.csv."""

import csv
import io
from typing import NamedTuple

import numpy as np

from image_classifier.computing.corrections import Correction
from image_classifier.computing.prepared import ImageRecord

KINDS = ("label", "near_duplicate", "outlier", "quality")


class Finding(NamedTuple):
    """Something that is probably wrong with an image."""

    image: int  # position in `Review.records`
    kind: str  # one of KINDS
    # label: the class that the image probably shows. near_duplicate: the path of the other image.
    # outlier: "". quality: the problem, such as "dark".
    suggested: str
    score: float  # 0 to 1; the larger, the more certain


class ConfusedClasses(NamedTuple):
    """Two classes that the network cannot tell apart."""

    first: str
    second: str
    confused: int  # images of one that are taken for the other
    images: int  # of both classes


class Review(NamedTuple):
    """Everything that src/review.py has found."""

    records: list[ImageRecord]  # the images of all splits: train, validation, test
    class_names: list[str]
    probabilities: np.ndarray  # float32 (n, class_count): of models that have not seen the image
    findings: list[Finding]  # the most certain first, within each kind
    confused: list[ConfusedClasses]  # the most confused first
    corrections: list[Correction]  # those that data/prepared was made with
    table_sha256: str  # of data/prepared/images.csv


def to_csv(review: Review) -> str:
    """The findings as CSV, with a row for each: path, split, class, finding, suggested, score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "split", "class", "finding", "suggested", "score"])
    for image, kind, suggested, score in review.findings:
        record = review.records[image]
        cells = record.path, record.split, record.class_name
        writer.writerow([*cells, kind, suggested, f"{score:.4f}"])
    return text.getvalue()
