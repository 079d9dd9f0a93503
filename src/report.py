"""Write one HTML page that compares experiments, and opens from disk without a network."""

import argparse
from contextlib import suppress
from functools import partial
from pathlib import Path

from image_classifier.common.errors import InputError
from image_classifier.common.script import REPOSITORY, run
from image_classifier.experiments.arguments import positive


def main(arguments: argparse.Namespace) -> None:
    # Not at the top: DVC takes a moment to import, and `--help` needs none of it.
    from image_classifier.comparison.page import build_page
    from image_classifier.experiments.results import best_of
    from image_classifier.experiments.store import find_experiments

    found = find_experiments(arguments.experiments)
    experiments = found if arguments.experiments else best_of(found, arguments.best)
    page = build_page(experiments, len(found))

    output = arguments.output
    unfinished = output.parent / f".{output.name}.unfinished"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(output)  # until now, a page that was there stays
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise InputError(f"--output: {output} cannot be written: {error.strerror}") from None

    count = f"{len(experiments)} experiment{'' if len(experiments) == 1 else 's'}"
    if len(found) > len(experiments):
        count = f"the best {len(experiments)} of {len(found):,} experiments (--best)"
    print(f"{output}: {count}, {len(page.encode()) / 1e6:.1f} MB")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiments",
        nargs="*",
        metavar="experiment",
        help="a name from `dvc exp list`, or a Git revision; those of the current commit otherwise",
    )
    parser.add_argument(
        "--best",
        type=positive(int),
        default=200,
        help="how many of the current commit's at most, by accuracy on the test images "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=lambda name: Path(name).absolute(),
        default=REPOSITORY / "experiments.html",
        help="the page to write (experiments.html at the top of this repository)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run(partial(main, parse_arguments()))
