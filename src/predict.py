"""Classify images with the trained model: print the class of each image and its probability."""

from image_classifier.common.script import REPOSITORY, run

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
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_classifier.common.class_folders import find_files
from image_classifier.common.errors import InputError
from image_classifier.common.images import load_readable_batches
from image_classifier.common.progress import progress_bar
from image_classifier.outputs.metadata import Metadata, read_metadata

OPENVINO_MODEL = REPOSITORY / "models/openvino/model.xml"
KERAS_MODEL = REPOSITORY / "models/model.keras"
IMAGES_AT_ONCE = 64

Candidates = list[tuple[str, float]]  # classes and their probabilities, the most likely first


def main() -> None:
    arguments = read_arguments()
    paths = find_image_files(arguments.paths, left_out=arguments.explain)
    classify, (class_names, trained_on) = load_classifier(arguments)

    # Results in a terminal show the progress themselves.
    progress = progress_bar("classifying", len(paths), hidden=sys.stdout.isatty())

    def report(error: InputError) -> None:
        tqdm.write(str(error), file=sys.stderr)
        progress.update()

    write = open_writer(arguments, paths, class_names)
    size, color_mode = trained_on.image_size, trained_on.color_mode
    batches = load_readable_batches(paths, IMAGES_AT_ONCE, size, color_mode, report)
    classified = 0
    with progress, closing(batches), ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch, pixels in batches:
            outputs = classify(pixels)
            probabilities, heat_maps = outputs if arguments.explain else (outputs, None)
            top = [likeliest(row, class_names, arguments.top) for row in probabilities]
            if arguments.explain:
                draw = partial(write_explanation, arguments.explain)
                list(pool.map(draw, batch, heat_maps, top))
            for path, candidates in zip(batch, top, strict=True):
                write(path, candidates)
            sys.stdout.flush()
            progress.update(len(batch))
            classified += len(batch)
    if unreadable := len(paths) - classified:
        raise InputError(f"{unreadable:,} of {len(paths):,} files could not be read")


def load_classifier(arguments: argparse.Namespace) -> tuple[Callable, Metadata]:
    """Load the model, and print what it is.

    Returns:
        A function from pixels, uint8 (n, image_size, image_size, channels), to probabilities,
        float32 (n, class_count), and with --explain to heat maps; and the model's metadata.

    Raises:
        InputError: if the file is missing, damaged, or no model of this repository.
    """
    path = arguments.model or (KERAS_MODEL if arguments.explain else OPENVINO_MODEL)
    if path.suffix == ".xml":
        from image_classifier.computing.openvino_model import build_function
        from image_classifier.outputs.openvino_file import load_translated

        network, *metadata = load_translated(path)
        print(f"{path}: {Metadata(*metadata).summary()}", file=sys.stderr)
        return build_function(network, "probabilities"), Metadata(*metadata)

    metadata = read_metadata(path)
    if arguments.explain:
        make_folder(arguments.explain)
    print(f"{path}: {metadata.summary()}", file=sys.stderr)

    # Imported here: TensorFlow takes seconds to load, and errors in arguments come first.
    if arguments.explain:
        from image_classifier.prediction.explanation import build_explainer
        from image_classifier.training.model_file import load_model

        return build_explainer(load_model(path).network), metadata
    from image_classifier.prediction.keras_model import load_function

    return load_function(path), metadata


def read_arguments() -> argparse.Namespace:
    """Read the command line; `--help` explains it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image, a folder with images at any depth, or a pattern such as '**/*.jpg'",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="model file, .xml or .keras (default: models/openvino/model.xml, or with --explain "
        "models/model.keras)",
    )
    parser.add_argument(
        "--top",
        type=_positive,
        default=1,
        metavar="K",
        help="print the K most likely classes (default: %(default)s)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per image")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="write each image next to a heat map of the regions that support its predicted class "
        "to this folder",
    )
    arguments = parser.parse_args()
    if arguments.explain and arguments.model and arguments.model.suffix == ".xml":
        parser.error(f"--explain: found the model {arguments.model}; allowed: a .keras file")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: 1 or more")
    return int(text)


def find_image_files(arguments: Sequence[str], left_out: Path | None) -> list[Path]:
    """Find the files that paths and patterns name, each once, in the order of the arguments.

    Named files are always included; for a folder, all files that are not hidden, sorted.

    Args:
        arguments: paths of files and folders, and patterns.
        left_out: folder to skip (heat maps from an earlier run).

    Raises:
        InputError: if an argument names no file.
    """
    drawn = f"{_absolute(left_out)}{os.sep}" if left_out else None
    found: dict[str, Path] = {}
    for argument in arguments:
        # A file's name may look like a pattern. Path.glob accepts no absolute patterns.
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
    """An absolute path without ".." that does not follow links: far faster than `Path.resolve`."""
    return os.path.abspath(path)  # noqa: PTH100


def make_folder(folder: Path) -> None:
    """Create a folder if it does not exist; raise an `InputError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--explain: {folder}: {error.strerror}; allowed: a folder") from None


def likeliest(probabilities: np.ndarray, class_names: Sequence[str], count: int) -> Candidates:
    """The `count` most likely classes, or all if there are fewer.

    `probabilities` are float32 (class_count,).
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(class_names[label], round(float(probabilities[label]), 6)) for label in order]


def open_writer(
    arguments: argparse.Namespace, paths: Sequence[Path], class_names: Sequence[str]
) -> Callable[[Path, Candidates], None]:
    """A function that prints an image's classes, in columns wide enough for all images."""
    # A path may have any bytes, and the terminal's encoding may lack letters of a class name.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")

    def write_json(path: Path, candidates: Candidates) -> None:
        top = [{"class": name, "probability": probability} for name, probability in candidates]
        result = {"path": str(path), **top[0], "top": top}
        if arguments.explain:
            result["explanation"] = str(explanation_path(arguments.explain, path))
        print(json.dumps(result))

    def write_csv(path: Path, candidates: Candidates) -> None:
        row = [path]
        for name, probability in candidates:
            row += [name, f"{probability:.6f}"]
        if arguments.explain:
            row.append(explanation_path(arguments.explain, path))
        table.writerow(row)

    def write_text(path: Path, candidates: Candidates) -> None:
        columns = [f"{name:{class_width}}  {figure:.4f}" for name, figure in candidates]
        print(f"{path!s:{path_width}}", *columns, sep="  ")

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


def write_explanation(folder: Path, path: Path, heat: np.ndarray, candidates: Candidates) -> None:
    """Write an image next to its heat map, float32 (image_size, image_size), to `folder`.

    Raises:
        InputError: if the file cannot be written.
    """
    from image_classifier.prediction.explanation import draw_explanation

    caption = ", ".join(f"{name} {probability:.1%}" for name, probability in candidates)
    target = explanation_path(folder, path)
    try:
        draw_explanation(path, heat, caption).save(target, quality=90)
    except OSError as error:
        raise InputError(f"--explain: {target}: {error.strerror or error}") from None


def explanation_path(folder: Path, path: Path) -> Path:
    """The file for an image's heat map; equal names in different folders get different files."""
    digest = hashlib.sha256(os.fsencode(_absolute(path))).hexdigest()
    return folder / f"{path.stem[:60]}-{digest[:8]}.jpg"


if __name__ == "__main__":
    run(main, folder=Path.cwd())
