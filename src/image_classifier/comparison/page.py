"""The page that compares experiments: a template filled with data.

Every list over experiments has the order of `experiments`, with None for missing results.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean

from PIL import Image

from image_classifier.common.progress import track
from image_classifier.comparison.changes import changed_predictions
from image_classifier.experiments.results import TEST_CURVES, Curve, Results
from image_classifier.experiments.store import Experiment
from image_classifier.pages.templates import MAX_BYTES, read_template, to_json
from image_classifier.pages.thumbnails import Loader, embed

TEMPLATE = Path(__file__).with_name("comparison.html")
VEGA = Path(".dvc/plots/page.html")  # contains the scripts of Vega, which renders the charts
SWEEPS = Path("sweeps")
# The end of a metric's name decides which values are better; other metrics are not ranked.
BETTER = {
    "larger": re.compile(r"(accuracy|precision|recall|f1|auc)$"),
    "smaller": re.compile(r"(loss|error)$"),
}
# Columns of the table, most important first; other metrics come last.
SPLIT_ORDER = ("test", "best", "eval", "train")
METRIC_ORDER = ("accuracy", "loss", "f1", "error")
MAX_POINTS = 200  # per curve: charts on the page are only a few hundred pixels wide
MAX_CLASSES = 30  # in a chart; more would be illegible
# Widths in pixels and WebP qualities, best first.
SWEEP_ENCODINGS = [(1200, 80), (1200, 40), (800, 40)]
CHANGED_ENCODINGS = [(128, 60), (96, 50), (64, 40)]
SHEET_ENCODINGS = [(1200, 75), (1000, 50), (1000, 25), (1000, 10), (800, 10), (640, 5)]


def build_page(experiments: Sequence[Experiment], found: int) -> str:
    """The page as HTML; `experiments` is not empty and was selected from `found` experiments."""
    scripts = re.findall("<script>.*?</script>", VEGA.read_text(encoding="utf-8"), re.DOTALL)
    page = read_template(TEMPLATE).replace("{{scripts}}", "\n".join(scripts))
    comparison = compare(experiments, max_bytes=MAX_BYTES - len(page.encode()))
    comparison["found"] = found
    return page.replace("{{comparison}}", to_json(comparison))


def compare(experiments: Sequence[Experiment], max_bytes: int) -> dict:
    """Read experiments and return the page's data, which take at most `max_bytes` as JSON.

    Numbers come first; images are scaled to fit the remaining bytes.
    """
    loaded = map(Results, experiments)
    results = list(track(loaded, "reading experiments", len(experiments), "experiment"))
    sweeps, states = find_sweeps({experiment.name for experiment in experiments})
    metrics = list_metrics(results)
    changed, changed_loaders = changed_predictions(results)
    sheets, sheet_loaders = list_sheets(results, best_first(metrics, len(results)))
    comparison = {
        "experiments": [describe(result, states) for result in results],
        "params": list_params(results),
        "metrics": metrics,
        "accuracy_intervals": [result.accuracy_interval for result in results],
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
        "sweeps": [{"name": name} for name in sweeps],
    }

    left = max_bytes - len(to_json(comparison))
    for sweep in comparison["sweeps"]:
        plots = sorted((SWEEPS / sweep["name"]).glob("*.png"))
        loaders = [partial(load_scaled, plot.read_bytes) for plot in plots]
        images = embed(loaders, SWEEP_ENCODINGS, left // 10, "plots of a sweep")
        sweep |= {"titles": [plot.stem for plot in plots], "images": images}
        left -= len("".join(images))
    changed["images"] = embed(changed_loaders, CHANGED_ENCODINGS, left // 3, "test images")
    left -= len("".join(changed["images"]))
    comparison["images"] = embed(sheet_loaders, SHEET_ENCODINGS, left, "sheets")
    return comparison


def find_sweeps(names: set[str]) -> tuple[list[str], dict[str, str]]:
    """The sweeps that ran any of these experiments, and experiment -> "complete", "pruned", ..."""
    sweeps, states = [], {}
    for table in sorted(SWEEPS.glob("*/trials.csv")):
        # A running sweep may have written only half of the last row.
        with table.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
        found = {row.get("experiment"): (row.get("state") or "").lower() for row in rows}
        if names & found.keys():
            sweeps.append(table.parent.name)
            states = found | states
    return sweeps, states


def describe(result: Results, states: dict[str, str]) -> dict:
    """Name, revision, time, state and problems of an experiment."""
    experiment = result.experiment
    return {
        "name": experiment.name,
        "revision": experiment.revision[:7],
        "created": experiment.created.isoformat(),
        "state": states.get(experiment.name),
        "problems": result.problems,
    }


def list_params(results: Sequence[Results]) -> list[dict]:
    """All parameters with their values (None if missing) and whether the values differ."""
    readable = [result.params for result in results if result.params]
    return [
        {
            "name": name,
            "differs": any(params.get(name) != readable[0].get(name) for params in readable),
            "values": [plain(result.params.get(name)) for result in results],
        }
        for name in dict.fromkeys(chain(*readable))
    ]


def list_metrics(results: Sequence[Results]) -> list[dict]:
    """All metrics, most important first, with their values and whether larger ones are better."""
    metrics = [{**result.train_metrics, **result.test_metrics} for result in results]

    def order(name: str) -> tuple[int, int]:
        split, _, _ = name.partition(".")
        ends = (place for place, end in enumerate(METRIC_ORDER) if name.endswith(end))
        return (
            SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER),
            next(ends, len(METRIC_ORDER)),
        )

    return [
        {
            "name": name,
            "better": next((which for which, end in BETTER.items() if end.search(name)), None),
            "values": [plain(values.get(name)) for values in metrics],
        }
        for name in sorted(dict.fromkeys(chain.from_iterable(metrics)), key=order)
    ]


def best_first(metrics: Sequence[dict], count: int) -> list[int]:
    """Positions of `count` experiments by the first metric that ranks them."""
    for metric in metrics:
        if metric["better"]:
            sign = 1 if metric["better"] == "smaller" else -1
            keys = [
                sign * value if isinstance(value, int | float) else math.inf
                for value in metric["values"]
            ]
            return sorted(range(count), key=keys.__getitem__)
    return list(range(count))


def list_training_curves(results: Sequence[Results]) -> list[dict]:
    """All metrics logged over the epochs; metrics of both splits come first."""
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
    """Reduce a curve to about `MAX_POINTS` evenly spread points with short numbers."""
    if curve is None:
        return None
    rows = range(len(curve[0]))
    step = max(1, math.ceil(len(rows) / MAX_POINTS))
    kept = sorted({*rows[::step], *rows[-1:]})
    return tuple([short(column[row]) for row in kept] for column in curve)


def list_confusion(matrices: Sequence[Counter]) -> list[dict | None]:
    """Confusion matrices as lists, rows by true class, of the classes with the most mistakes."""
    mistakes = Counter()
    for (true, predicted), count in chain(*(matrix.items() for matrix in matrices)):
        if true != predicted:
            mistakes.update({true: count, predicted: count})
    entries = []
    for matrix in matrices:
        classes = sorted(set(chain(*matrix)))
        shown = sorted(sorted(classes, key=lambda name: -mistakes[name])[:MAX_CLASSES])
        entry = {
            "classes": shown,
            "counts": [[matrix[true, predicted] for predicted in shown] for true in shown],
            "left_out": len(classes) - len(shown),
        }
        entries.append(entry if matrix else None)
    return entries


def list_f1(results: Sequence[Results]) -> dict:
    """F1 of each class; with many classes, only of the classes that are worst on average."""
    found = [result.f1 for result in results]
    names = sorted(set(chain(*found)))
    worst = sorted(names, key=lambda name: fmean(f1[name] for f1 in found if name in f1))
    shown = sorted(worst[:MAX_CLASSES])
    return {
        "classes": shown,
        "values": [[plain(f1.get(name)) for name in shown] for f1 in found],
        "left_out": len(names) - len(shown),
    }


def list_sheets(results: Sequence[Results], order: Sequence[int]) -> tuple[list, list[Loader]]:
    """The sheets by title, and loaders of their images, with experiments in the given order.

    A sheet's `image` is the position of its loader; equal sheets share one.
    """
    places: dict[str, int] = {}
    loaders = []
    entries: dict[str, list] = {}
    for row in order:
        experiment = results[row].experiment
        for sheet in results[row].sheets:
            content = experiment.hash_of(sheet.path) or f"{experiment.revision}:{sheet.path}"
            if content not in places:
                places[content] = len(places)
                loaders.append(partial(load_scaled, partial(experiment.read, sheet.path)))
            entry = {"image": places[content], "epoch": sheet.epoch}
            entries.setdefault(sheet.title, [None] * len(results))[row] = entry
    return [{"title": title, "entries": row} for title, row in entries.items()], loaders


def load_scaled(read: Callable[[], bytes], width: int) -> Image.Image:
    """Decode an image and scale it down to a maximum width in pixels."""
    image = Image.open(io.BytesIO(read())).convert("RGB")
    image.thumbnail((width, image.height))
    return image


def plain(value: object) -> str | int | float | bool | None:
    """A value that JSON supports; NaN, infinity, lists and dates become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("nan", "NaN")
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, default=str)


def short(number: float) -> float | int | None:
    """A whole number unchanged, others with five digits, which saves a third of the page."""
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.5g}")
