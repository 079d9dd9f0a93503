"""Write one HTML page that compares experiments, and opens from disk without a network."""

import argparse
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

from image_classifier.arguments import positive
from image_classifier.errors import REPOSITORY, InputError, run

TEMPLATE = Path("src/image_classifier/comparison.html")
VEGA = Path(".dvc/plots/page.html")  # carries the scripts of Vega, which draws the charts
MAX_BYTES = 9_500_000


def main(arguments: argparse.Namespace) -> None:
    # Not at the top: DVC takes a moment to import, and `--help` needs none of it.
    from image_classifier.comparison import compare, to_json
    from image_classifier.experiments import find_experiments
    from image_classifier.results import best_of

    found = find_experiments(arguments.experiments)
    experiments = found if arguments.experiments else best_of(found, arguments.best)
    scripts = re.findall("<script>.*?</script>", VEGA.read_text(encoding="utf-8"), re.DOTALL)
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{scripts}}", "\n".join(scripts))
    comparison = compare(experiments, max_bytes=MAX_BYTES - len(page.encode()))
    comparison["found"] = len(found)
    write(arguments.output, page.replace("{{comparison}}", to_json(comparison)))

    size = arguments.output.stat().st_size
    count = f"{len(experiments)} experiment{'' if len(experiments) == 1 else 's'}"
    if len(found) > len(experiments):
        count = f"the best {len(experiments)} of {len(found):,} experiments (--best)"
    print(f"{arguments.output}: {count}, {size / 1e6:.1f} MB")


def write(path: Path, page: str) -> None:
    """Write the page, or leave the one that was there as it is.

    Raises:
        InputError: if it cannot be written.
    """
    unfinished = path.parent / f".{path.name}.unfinished"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise InputError(f"--output: {path} cannot be written: {error.strerror}") from None


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
        help="how many of the current commit's at most, by accuracy on the test pictures "
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
