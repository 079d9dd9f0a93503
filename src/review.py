"""Find probable mistakes in the data: wrong labels, near duplicates, outliers, poor quality.

Writes a page on which you decide about them, and a table for scripts; changes no data.
"""

from image_classifier.common.script import REPOSITORY, run

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from image_classifier.common.hashing import sha256_of
from image_classifier.computing.corrections import applied_corrections
from image_classifier.computing.prepared import PREPARED, SPLITS, TABLE, locate_image, open_splits


def main(arguments: argparse.Namespace) -> None:
    class_names, splits = open_splits(*SPLITS)

    # Imported here: scikit-learn takes a second to load, and errors come first.
    from threadpoolctl import threadpool_limits

    from image_classifier.pages.templates import write_output
    from image_classifier.review.features import read_features, reduce
    from image_classifier.review.findings import KINDS, Review, to_csv
    from image_classifier.review.labels import (
        confused_classes,
        find_label_issues,
        label_findings,
        predict_held_out,
    )
    from image_classifier.review.neighbours import find_neighbours, near_duplicates, outliers
    from image_classifier.review.page import build_page
    from image_classifier.review.quality import poor_quality

    # Threads that share a matrix product wait for each other: 60 times as slow on a busy machine.
    threadpool_limits(1, user_api="blas")
    records = [record for split in splits for record in split.records]
    labels = np.concatenate([split.labels for split in splits])
    features = read_features(splits, class_names)
    reduced = reduce(features)
    probabilities = predict_held_out(reduced, labels, train_count=len(splits[0].labels))
    issues = find_label_issues(probabilities, labels)
    neighbours = find_neighbours(features, reduced)
    locations = [locate_image(record) for record in records]
    local = all(isinstance(location, str) for location in locations)
    review = Review(
        records,
        class_names,
        probabilities,
        [
            *label_findings(probabilities, labels, issues, class_names),
            *near_duplicates(neighbours, records),
            *outliers(neighbours),
            *(poor_quality(list(map(Path, locations))) if local else []),
        ],
        confused_classes(probabilities, labels, issues, class_names),
        applied_corrections(PREPARED),
        sha256_of(TABLE),
    )

    page = build_page(review, arguments.splits, locate_image)
    table = arguments.output.with_suffix(".csv")
    write_output(arguments.output, page)
    write_output(table, to_csv(review))
    print(f"{arguments.output}: {len(records):,} images, {len(page.encode()) / 1e6:.1f} MB")
    print(f"{table}: {len(review.findings):,} findings")
    if not local:
        print("quality is not checked: the images are not on this machine")
    counts = Counter(finding.kind for finding in review.findings)
    for kind in KINDS:
        print(f"{kind:14}  {counts[kind]:,}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=["train", "validation"],
        metavar="SPLIT",
        help="splits whose images can be corrected on the page: train, validation, test "
        "(default: train validation)",
    )
    parser.add_argument(
        "--output",
        type=page_path,
        default=REPOSITORY / "review.html",
        metavar="FILE",
        help="page to write; the table is beside it, with the extension .csv "
        "(default: review.html in the project's folder)",
    )
    return parser.parse_args()


def page_path(text: str) -> Path:
    """The path of the page. Checked here: a review of many images takes minutes."""
    path = Path(text).absolute()
    if path.suffix == ".csv" or path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"found {text!r}; allowed: a file in an existing folder, not .csv as its table"
        )
    return path


if __name__ == "__main__":
    run(partial(main, parse_arguments()))
