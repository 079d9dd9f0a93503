"""Classify pictures with the trained model: the class of each, and its probability."""

import argparse
import csv
import glob
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_classifier.class_folders import find_files
from image_classifier.errors import REPOSITORY, InputError, run
from image_classifier.images import load_readable_batches
from image_classifier.metadata import read_metadata

MODEL = REPOSITORY / "models/model.keras"
BATCH_SIZE = 64

Candidates = list[tuple[str, float]]  # classes and their probabilities, the likeliest first


def main() -> None:
    arguments = read_arguments()
    paths = find_pictures(arguments.paths, left_out=arguments.explain)
    summary = read_metadata(arguments.model).summary()
    if arguments.explain:
        make_folder(arguments.explain)
    print(f"{arguments.model}: {summary}", file=sys.stderr)

    # Not at the top: TensorFlow takes seconds to import, and errors in arguments come first.
    from image_classifier.explanation import build_explainer
    from image_classifier.inference import build_function
    from image_classifier.model import load_model

    network, class_names, trained_on = load_model(arguments.model)
    classify = build_explainer(network) if arguments.explain else build_function(network)

    # Where results go to the terminal, they show the progress themselves.
    no_bar = sys.stdout.isatty() or not sys.stderr.isatty()
    progress = tqdm(total=len(paths), unit="picture", disable=no_bar)
    unreadable = 0

    def report(error: InputError) -> None:
        nonlocal unreadable
        unreadable += 1
        tqdm.write(str(error), file=sys.stderr)
        progress.update()

    write = open_writer(arguments, paths, class_names)
    size, color_mode = trained_on.image_size, trained_on.color_mode
    batches = load_readable_batches(paths, BATCH_SIZE, size, color_mode, report)
    with progress, closing(batches):
        for batch, pixels in batches:
            if arguments.explain:
                probabilities, heat_maps = classify(pixels)
            else:
                probabilities = classify(pixels)
            top = [likeliest(outputs, class_names, arguments.top) for outputs in probabilities]
            if arguments.explain:
                write_explanations(arguments.explain, batch, heat_maps, top)
            for path, candidates in zip(batch, top, strict=True):
                write(path, candidates)
            sys.stdout.flush()
            progress.update(len(batch))
    if unreadable:
        raise InputError(f"{unreadable:,} of {len(paths):,} files could not be read")


def read_arguments() -> argparse.Namespace:
    """Read the command line; `--help` explains it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a picture, a folder with pictures at any depth, or a pattern such as '**/*.jpg'",
    )
    parser.add_argument(
        "--model", type=Path, default=MODEL, metavar="FILE", help="another than models/model.keras"
    )
    parser.add_argument(
        "--top", type=_positive, default=1, metavar="K", help="name the K likeliest classes"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write a JSON object for each picture")
    form.add_argument("--csv", action="store_true", help="write comma-separated values")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="draw each picture there beside a heat map of the places that its class rests on",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: 1 or more")
    return int(text)


def find_pictures(arguments: Sequence[str], left_out: Path | None) -> list[Path]:
    """The files that paths and patterns name, in this order, each once; those of a folder sorted.

    Args:
        arguments: as on the command line. What is named is taken, whatever it is; of a folder, all
            files that are not hidden.
        left_out: a folder of which no file is taken: what this command has drawn before.

    Raises:
        InputError: if one of them names no file.
    """
    drawn = f"{_absolute(left_out)}{os.sep}" if left_out else None
    found: dict[str, Path] = {}
    for argument in arguments:
        # A file may have a name that looks like a pattern. Path.glob takes no absolute pattern.
        exact = os.path.lexists(argument)
        names = [argument] if exact else sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
        files = {
            _absolute(file): file
            for path in map(Path, names)
            for file in (find_files(path) if path.is_dir() else [path])
        }
        if drawn:
            files = {name: file for name, file in files.items() if not name.startswith(drawn)}
        if not files:
            raise InputError(f"{argument}: no file found; allowed: a file, a folder, a pattern")
        for name, file in files.items():
            found.setdefault(name, file)
    return list(found.values())


def _absolute(path: Path) -> str:
    """An absolute path without "..", links not followed: much faster than `Path.resolve`."""
    return os.path.abspath(path)  # noqa: PTH100


def make_folder(folder: Path) -> None:
    """Make a folder if there is none.

    Raises:
        InputError: if that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--explain: {folder}: {error.strerror}; allowed: a folder") from None


def likeliest(probabilities: np.ndarray, class_names: Sequence[str], count: int) -> Candidates:
    """The `count` likeliest classes, or all if there are fewer.

    Args:
        probabilities: float32 (class_count,).
        class_names: in their order.
        count: 1 or more.
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(class_names[label], round(float(probabilities[label]), 6)) for label in order]


def open_writer(
    arguments: argparse.Namespace, paths: Sequence[Path], class_names: Sequence[str]
) -> Callable[[Path, Candidates], None]:
    """A function that writes what was found of one picture to standard output.

    Args:
        arguments: of which `json`, `csv`, `top` and `explain` decide the form.
        paths: all that may be written, for the width of their column.
        class_names: likewise.
    """
    # Paths may hold any bytes, and the terminal's encoding may lack letters of a class name.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")

    def write_json(path: Path, candidates: Candidates) -> None:
        (name, probability), *_ = candidates
        top = [{"class": name, "probability": probability} for name, probability in candidates]
        result = {"path": str(path), "class": name, "probability": probability, "top": top}
        if arguments.explain:
            result["explanation"] = str(explanation_path(arguments.explain, path))
        print(json.dumps(result))

    def write_csv(path: Path, candidates: Candidates) -> None:
        row = [str(path)]
        for name, probability in candidates:
            row += [name, f"{probability:.6f}"]
        if arguments.explain:
            row.append(str(explanation_path(arguments.explain, path)))
        table.writerow(row)

    def write_text(path: Path, candidates: Candidates) -> None:
        columns = [f"{name:{class_width}}  {figure:.4f}" for name, figure in candidates]
        print("  ".join([f"{path!s:{path_width}}", *columns]))

    if arguments.json:
        return write_json
    if arguments.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        header = ["path", "class", "probability"]
        for place in range(2, min(arguments.top, len(class_names)) + 1):
            header += [f"class_{place}", f"probability_{place}"]
        table.writerow([*header, "explanation"] if arguments.explain else header)
        return write_csv
    path_width = max(len(str(path)) for path in paths)
    class_width = max(map(len, class_names))
    return write_text


def write_explanations(
    folder: Path, paths: Sequence[Path], heat_maps: np.ndarray, top: Sequence[Candidates]
) -> None:
    """Draw pictures with their heat maps, float32 (n, image_size, image_size), below `folder`.

    Raises:
        InputError: if a file cannot be written.
    """
    from image_classifier.explanation import draw_explanation

    def draw(path: Path, heat: np.ndarray, candidates: Candidates) -> None:
        caption = ", ".join(f"{name} {probability:.1%}" for name, probability in candidates)
        target = explanation_path(folder, path)
        try:
            draw_explanation(path, heat, caption).save(target, quality=90)
        except OSError as error:
            raise InputError(f"--explain: {target}: {error.strerror or error}") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, paths, heat_maps, top))


def explanation_path(folder: Path, path: Path) -> Path:
    """Where a picture's heat map is drawn: pictures of one name in two folders have two places."""
    digest = hashlib.sha256(os.fsencode(_absolute(path))).hexdigest()
    return folder / f"{path.stem[:60]}-{digest[:8]}.jpg"


if __name__ == "__main__":
    run(main, folder=Path.cwd())
