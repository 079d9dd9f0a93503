"""The page on which a person decides about the findings: a template filled with data."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from image_classifier.common.errors import InputError
from image_classifier.common.images import Content, load_for_display
from image_classifier.common.remote import RemoteFile
from image_classifier.computing.prepared import SPLITS, ImageRecord
from image_classifier.pages.templates import MAX_BYTES, read_template, to_json
from image_classifier.pages.thumbnails import embed
from image_classifier.review.findings import Finding, Review

TEMPLATE = Path(__file__).with_name("review.html")
# The most of each kind on the page: 1,400 images, which take 6.5 MB as photos of 200 pixels.
MAX_FINDINGS = {"label": 500, "near_duplicate": 250, "outlier": 200, "quality": 200}
MAX_CONFUSED = 50  # pairs of classes
MAX_CLASSES = 100  # rows of the table of images
# Longer sides in pixels and WebP qualities, best first.
ENCODINGS = [(200, 70), (160, 60), (128, 55), (96, 50), (80, 45), (64, 40)]
DECIMALS = 4  # of probabilities
MAX_FAILURES = 4  # of remote images, each after several attempts: then the network is down

Location = str | RemoteFile


def build_page(
    review: Review, editable: Sequence[str], locate: Callable[[ImageRecord], Location]
) -> str:
    """The page as HTML.

    Args:
        review: what has been found.
        editable: the splits whose images may be marked.
        locate: returns the path of an image's file, or the remote file.
    """
    page = read_template(TEMPLATE)
    data = describe(review, editable, locate, max_bytes=MAX_BYTES - len(page.encode()))
    return page.replace("{{review}}", to_json(data))


def describe(
    review: Review,
    editable: Sequence[str],
    locate: Callable[[ImageRecord], Location],
    max_bytes: int,
) -> dict:
    """The page's data, which take at most `max_bytes` as JSON; images are reduced to fit.

    An image has an entry in `images`, once, and is otherwise its position there.
    """
    found = {kind: [f for f in review.findings if f.kind == kind] for kind in MAX_FINDINGS}
    pairs = sort_pairs(review.records, found["near_duplicate"])
    shown = {kind: found[kind][:limit] for kind, limit in MAX_FINDINGS.items()}
    pairs = pairs[: MAX_FINDINGS["near_duplicate"]]
    rows = dict.fromkeys(  # of the images on the page, in its order
        [finding.image for finding in shown["label"]]
        + [row for pair in pairs for row in pair]
        + [finding.image for kind in ("outlier", "quality") for finding in shown[kind]]
    )
    places = {row: place for place, row in enumerate(rows)}
    records = [review.records[row] for row in rows]

    data = {
        "table_sha256": review.table_sha256,
        "classes": review.class_names,
        "editable": list(editable),
        "corrections": review.corrections,
        "found": {kind: len(findings) for kind, findings in found.items()},
        "images": [
            {"sha256": r.sha256, "path": r.path, "split": r.split, "class": r.class_name}
            for r in records
        ],
        "labels": [
            {"image": places[finding.image], **class_probabilities(review, finding)}
            for finding in shown["label"]
        ],
        "pairs": [[places[row] for row in pair] for pair in pairs],
        "outliers": [places[finding.image] for finding in shown["outlier"]],
        "quality": [
            {"image": places[finding.image], "problem": finding.suggested}
            for finding in shown["quality"]
        ],
        "confused": review.confused[:MAX_CONFUSED],
        "confused_found": len(review.confused),
        "counts": count_images(review),
    }
    failures: list[Exception] = []
    loaders = [partial(load_thumbnail, locate(record), failures) for record in records]
    data["sources"] = embed(loaders, ENCODINGS, max_bytes - len(to_json(data)), "images")
    return data


def sort_pairs(records: Sequence[ImageRecord], found: Sequence[Finding]) -> list[list[int]]:
    """The records of each near duplicate in the order of `SPLITS`; pairs across splits first.

    Of these, pairs with a test image come first.
    """
    rows = {record.path: row for row, record in enumerate(records)}

    def split(row: int) -> int:
        return SPLITS.index(records[row].split)

    def order(pair: list[int]) -> int:
        first, second = map(split, pair)
        return len(SPLITS) if first == second else -second

    pairs = [sorted((finding.image, rows[finding.suggested]), key=split) for finding in found]
    return sorted(pairs, key=order)


def class_probabilities(review: Review, finding: Finding) -> dict:
    """The class that an image probably shows, with its probability and that of its label."""
    probabilities = review.probabilities[finding.image]
    given, suggested = (
        round(float(probabilities[review.class_names.index(name)]), DECIMALS)
        for name in (review.records[finding.image].class_name, finding.suggested)
    )
    return {"suggested": finding.suggested, "probabilities": [given, suggested]}


def count_images(review: Review) -> dict:
    """Images of each split in each class and in all; of many classes, only the smallest."""
    counts = Counter((record.class_name, record.split) for record in review.records)
    rows = [(name, *(counts[name, split] for split in SPLITS)) for name in review.class_names]
    total = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
    if len(rows) > MAX_CLASSES:
        rows = sorted(rows, key=lambda row: sum(row[1:]))[:MAX_CLASSES]
    return {"splits": SPLITS, "rows": rows, "total": total}


def load_thumbnail(location: Location, failures: list[Exception], longer_side: int) -> Image.Image:
    """Decode an image with its aspect ratio, without enlarging it.

    `failures` are the errors of all remote images; with `MAX_FAILURES` none is fetched any more.
    """
    if isinstance(location, RemoteFile):
        location = Content(str(location), fetch(location, failures))
    return load_for_display(location, longer_side, enlarge=False)


def fetch(remote: RemoteFile, failures: list[Exception]) -> bytes:
    """Read a remote file, unless too many others could not be read."""
    if len(failures) >= MAX_FAILURES:
        raise failures[-1]
    try:
        return remote.read()
    except InputError as error:
        failures.append(error)
        raise
