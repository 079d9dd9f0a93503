"""Write an HTML page that compares experiments; it opens without a network."""

from image_classifier.common.script import REPOSITORY, run

import argparse
from functools import partial
from pathlib import Path

from image_classifier.experiments.arguments import positive


def main(arguments: argparse.Namespace) -> None:
    # Imported here: DVC takes a second to load, and `--help` does not need it.
    from image_classifier.comparison.page import build_page
    from image_classifier.experiments.results import best_of
    from image_classifier.experiments.store import find_experiments
    from image_classifier.pages.templates import write_output

    found = find_experiments(arguments.experiments)
    experiments = found if arguments.experiments else best_of(found, arguments.best)
    page = build_page(experiments, len(found))

    write_output(arguments.output, page)

    count = f"{len(experiments)} experiment{'' if len(experiments) == 1 else 's'}"
    if len(found) > len(experiments):
        count = f"the best {len(experiments)} of {len(found):,} experiments (--best)"
    print(f"{arguments.output}: {count}, {len(page.encode()) / 1e6:.1f} MB")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiments",
        nargs="*",
        metavar="experiment",
        help="name from `dvc exp list`, or Git revision "
        "(default: the experiments of the current commit)",
    )
    parser.add_argument(
        "--best",
        type=positive(int),
        default=200,
        metavar="N",
        help="compare at most N experiments of the current commit, those with the highest test "
        "accuracy (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=lambda name: Path(name).absolute(),
        default=REPOSITORY / "experiments.html",
        metavar="FILE",
        help="page to write (default: experiments.html in the project's folder)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run(partial(main, parse_arguments()))
