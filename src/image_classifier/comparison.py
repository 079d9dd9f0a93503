"""What the page that compares experiments shows, as plain data that JSON can hold.

Wherever there is a list over experiments, it has an entry for each in the order of `experiments`,
and None for one that has nothing there.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from image_classifier.changes import changed_predictions
from image_classifier.experiments import Experiment
from image_classifier.results import TEST_CURVES, Curve, Results
from image_classifier.thumbnails import Encoding, embed

SWEEPS = Path("sweeps")
# How a metric's name ends says which values are better; others are not ranked.
LARGER_IS_BETTER = re.compile(r"(accuracy|precision|recall|f1|auc)$")
SMALLER_IS_BETTER = re.compile(r"(loss|error)$")
MAX_POINTS = 200  # of a curve; a chart on the page is not many more pixels wide
MAX_CLASSES = 30  # in a chart; more cannot be read
# The best first. With the last ones, a hundred experiments with two sheets of 24 photos fit.
SEARCH_ENCODINGS = [Encoding(1200, 80), Encoding(1200, 40), Encoding(800, 40)]
CHANGED_ENCODINGS = [Encoding(128, 60), Encoding(96, 50), Encoding(64, 40)]
SHEET_ENCODINGS = [
    Encoding(1200, 75),
    Encoding(1000, 50),
    Encoding(1000, 25),
    Encoding(1000, 10),
    Encoding(800, 10),
    Encoding(640, 5),
]


class Sweep(NamedTuple):
    """A search for hyperparameters, as src/sweep.py leaves it in the workspace."""

    name: str
    states: dict[str, str]  # experiment -> "complete", "pruned", ...
    pictures: list[Path]


def compare(experiments: Sequence[Experiment], max_bytes: int) -> dict:
    """Read experiments and lay them side by side.

    Args:
        experiments: one or more.
        max_bytes: how long the result may be as JSON. Pictures take what the numbers leave of it.
    """
    progress = tqdm(experiments, "reading experiments", unit="experiment")
    results = [Results(experiment) for experiment in progress]
    sweeps = find_sweeps({experiment.name for experiment in experiments})
    metrics = list_metrics(results)
    changed, changed_pictures = changed_predictions(results)
    sheets, sheet_pictures = list_sheets(results, best_first(metrics, len(results)))
    comparison = {
        "experiments": [describe(result, sweeps) for result in results],
        "params": list_params(results),
        "metrics": metrics,
        "training_curves": list_training_curves(results),
        "test_curves": {
            name: [thin(result.test_curves[name]) for result in results] for name in TEST_CURVES
        },
        "confusion": {
            split: list_confusion([result.confusion[split] for result in results])
            for split in ("test", "validation")
        },
        "f1": list_f1(results),
        "changed": changed,
        "sheets": sheets,
        "sweeps": [{"name": sweep.name} for sweep in sweeps],
    }

    left = max_bytes - len(to_json(comparison))
    for sweep, entry in zip(sweeps, comparison["sweeps"], strict=True):
        pictures = [partial(load_picture, picture.read_bytes) for picture in sweep.pictures]
        images = embed(pictures, SEARCH_ENCODINGS, left // 10, "pictures of a search")
        entry |= {"titles": [picture.stem for picture in sweep.pictures], "images": images}
        left -= len("".join(images))
    changed["images"] = embed(changed_pictures, CHANGED_ENCODINGS, left // 3, "test pictures")
    left -= len("".join(changed["images"]))
    comparison["images"] = embed(sheet_pictures, SHEET_ENCODINGS, left, "sheets")
    return comparison


def to_json(data: object) -> str:
    """JSON that may stand inside a <script> element of a page, whatever text it holds."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")


def find_sweeps(names: set[str]) -> list[Sweep]:
    """The searches in the workspace that made at least one of the experiments of these names."""
    sweeps = []
    for table in sorted(SWEEPS.glob("*/trials.csv")):
        # A search may be running and its last row half written.
        with table.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
        states = {row.get("experiment"): (row.get("state") or "").lower() for row in rows}
        if names & states.keys():
            sweeps.append(Sweep(table.parent.name, states, sorted(table.parent.glob("*.png"))))
    return sweeps


def describe(result: Results, sweeps: Iterable[Sweep]) -> dict:
    """What identifies an experiment, and what it misses."""
    experiment = result.experiment
    states = [sweep.states[experiment.name] for sweep in sweeps if experiment.name in sweep.states]
    return {
        "name": experiment.name,
        "revision": experiment.revision[:7],
        "created": experiment.created.isoformat(),
        "state": states[0] if states else None,
        "problems": result.problems,
    }


def list_params(results: Sequence[Results]) -> list[dict]:
    """Every parameter, with its values and whether they differ; a missing one is null."""
    names = dict.fromkeys(chain.from_iterable(result.params for result in results))
    readable = [result.params for result in results if result.params]
    return [
        {
            "name": name,
            "differs": any(params.get(name) != readable[0].get(name) for params in readable),
            "values": [plain(result.params.get(name)) for result in results],
        }
        for name in names
    ]


def list_metrics(results: Sequence[Results]) -> list[dict]:
    """Every metric, those of the test pictures first, with its values and which are better."""
    groups = {
        "test": [result.test_metrics for result in results],
        "training": [result.train_metrics for result in results],
    }
    return [
        {
            "name": name,
            "group": group,
            "better": better(name),
            "values": [plain(figures.get(name)) for figures in metrics],
        }
        for group, metrics in groups.items()
        for name in dict.fromkeys(chain.from_iterable(metrics))
    ]


def better(metric: str) -> str | None:
    """Which values of a metric are better: "larger", "smaller", or None if that is not known."""
    if LARGER_IS_BETTER.search(metric):
        return "larger"
    return "smaller" if SMALLER_IS_BETTER.search(metric) else None


def best_first(metrics: Sequence[dict], count: int) -> list[int]:
    """Positions of `count` experiments by the first metric that ranks them."""
    for metric in metrics:
        if metric["better"]:
            sign = 1 if metric["better"] == "smaller" else -1
            return sorted(
                range(count),
                key=lambda row, values=metric["values"]: (
                    sign * values[row] if type(values[row]) in (int, float) else math.inf
                ),
            )
    return list(range(count))


def list_training_curves(results: Sequence[Results]) -> list[dict]:
    """Every metric that an experiment has logged over its epochs, those of both splits first."""
    names = set(chain.from_iterable(result.training_curves for result in results))
    splits = Counter(name.partition("/")[2] for name in names)

    def order(name: str) -> tuple[int, str, str]:
        split, _, metric = name.partition("/")
        return -splits[metric], metric, split

    return [
        {"name": name, "curves": [thin(result.training_curves.get(name)) for result in results]}
        for name in sorted(names, key=order)
    ]


def thin(curve: Curve | None) -> Curve | None:
    """At most `MAX_POINTS` of a curve, evenly spread, with numbers as short as a chart needs."""
    if curve is None:
        return None
    step = -(-len(curve.x) // MAX_POINTS)
    kept = sorted({*range(0, len(curve.x), step or 1), *range(len(curve.x))[-1:]})
    return Curve([short(curve.x[row]) for row in kept], [short(curve.y[row]) for row in kept])


def list_confusion(matrices: Sequence[Counter | None]) -> list[dict | None]:
    """Confusion matrices as lists, rows by true class; the classes with the most mistakes."""
    mistakes = Counter()
    for pair, count in chain.from_iterable(matrix.items() for matrix in matrices if matrix):
        if pair[0] != pair[1]:
            mistakes.update({pair[0]: count, pair[1]: count})
    entries = []
    for matrix in matrices:
        classes = sorted(set(chain.from_iterable(matrix or [])))
        shown = sorted(sorted(classes, key=lambda name: -mistakes[name])[:MAX_CLASSES])
        entry = {
            "classes": shown,
            "counts": [[matrix[true, predicted] for predicted in shown] for true in shown],
            "left_out": len(classes) - len(shown),
        }
        entries.append(entry if matrix else None)
    return entries


def list_f1(results: Sequence[Results]) -> dict:
    """F1 of each class; of many classes, those that are worst on average."""
    names = set(chain.from_iterable(result.f1 for result in results))
    average = {
        name: fmean(result.f1[name] for result in results if name in result.f1) for name in names
    }
    shown = sorted(sorted(names, key=lambda name: (average[name], name))[:MAX_CLASSES])
    return {
        "classes": shown,
        "values": [[plain(result.f1.get(name)) for name in shown] for result in results],
        "left_out": len(names) - len(shown),
    }


def list_sheets(
    results: Sequence[Results], order: Sequence[int]
) -> tuple[list[dict], list[Callable[[int], Image.Image]]]:
    """The sheets of pictures, by title, and functions that decode them.

    A sheet's `image` is its place among the functions; equal ones share it. They are in the order
    of the experiments at the positions in `order`.
    """
    places: dict[str, int] = {}
    pictures = []
    entries: dict[str, list] = {}
    for row in order:
        experiment = results[row].experiment
        for sheet in results[row].sheets:
            content = experiment.hash_of(sheet.path) or f"{experiment.revision}:{sheet.path}"
            if content not in places:
                places[content] = len(places)
                pictures.append(partial(load_picture, partial(experiment.read, sheet.path)))
            entry = {"image": places[content], "epoch": sheet.epoch}
            entries.setdefault(sheet.title, [None] * len(results))[row] = entry
    return [{"title": title, "entries": row} for title, row in entries.items()], pictures


def load_picture(read: Callable[[], bytes], width: int) -> Image.Image:
    """Decode a picture and scale it down to a width, in pixels."""
    image = Image.open(io.BytesIO(read())).convert("RGB")
    image.thumbnail((width, image.height))
    return image


def plain(value: object) -> str | int | float | bool | None:
    """A value as JSON knows it; a NaN, an infinity, a list or a date as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("nan", "NaN")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, default=str)


def short(number: float | None) -> float | int | None:
    """A whole number as it is, any other with five digits: a third of the page otherwise."""
    if number is None or number == int(number):
        return number if number is None else int(number)
    return float(f"{number:.5g}")
