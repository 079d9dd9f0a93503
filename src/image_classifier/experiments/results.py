"""What an experiment has to show: parameters, metrics, curves, predictions and sheets.

What is missing or cannot be read is noted and left empty; the rest is there all the same.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from sys import intern
from typing import NamedTuple, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_classifier.experiments.store import Experiment

TRAIN, EVALUATE = "dvclive/train", "dvclive/evaluate"
# The curves over the test images: what DVCLive calls them, and their columns.
TEST_CURVES = {
    "roc": ("fpr", "tpr"),
    "precision_recall": ("recall", "precision"),
    "calibration": ("prob_pred", "prob_true"),
}
# What the parsers below raise on content that is not what its name promises.
PARSE_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, csv.Error, YAMLError)

Curve = tuple[list[float], list[float]]  # x and y of points in their order, perhaps NaN or infinite
Value = TypeVar("Value")


class Predictions(NamedTuple):
    """Of each test image: its path in data/raw, its class, the one predicted, and how surely."""

    paths: list[str]
    class_names: list[str]
    predicted: list[str]
    probabilities: list[float]


class Sheet(NamedTuple):
    """An image that a stage has logged."""

    title: str
    path: str
    epoch: int | None  # that it is of, if there is one for each epoch: the best or else the last


class Results:
    """The results of one experiment, read at once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.problems: list[str] = []  # a line for each file that is missing or cannot be read
        self.params = self._read("params.yaml", parse_params, {})
        self.train_metrics = self._read(f"{TRAIN}/metrics.json", parse_metrics, {})
        self.test_metrics = self._read(f"{EVALUATE}/metrics.json", parse_metrics, {})
        self.training_curves = self._read_training_curves()
        folder = "plots/sklearn"
        self.test_curves = {
            name: self._read(f"{EVALUATE}/{folder}/{name}.json", partial(parse_points, name), None)
            for name in TEST_CURVES
        }
        self.confusion = {
            split: self._read(f"{stage}/{folder}/confusion_matrix.json", parse_confusion, Counter())
            for split, stage in (("test", EVALUATE), ("validation", TRAIN))
        }
        self.f1 = self._read(f"{EVALUATE}/plots/custom/per_class.json", parse_f1, {})
        nothing = Predictions([], [], [], [])
        self.predictions = self._read(f"{EVALUATE}/predictions.csv", parse_predictions, nothing)
        self.sheets = [*self._find_sheets(EVALUATE), *self._find_sheets(TRAIN)]

    def _read(self, path: str, parse: Callable[[bytes], Value], default: Value) -> Value:
        try:
            return parse(self.experiment.read(path))
        except FileNotFoundError:
            self.problems.append(f"{path}: neither in Git nor in DVC's cache")
        except (OSError, *PARSE_ERRORS):
            self.problems.append(f"{path}: cannot be read")
        return default

    def _read_training_curves(self) -> dict[str, Curve]:
        """Name, such as "eval/accuracy" -> its course over the epochs."""
        folder = f"{TRAIN}/plots/metrics"
        paths = [path for path in self.experiment.find(folder) if path.endswith(".tsv")]
        if not paths:
            self.problems.append(f"{folder}: neither in Git nor in DVC's cache")
        curves = {
            path[len(folder) + 1 : -len(".tsv")]: self._read(path, parse_table, None)
            for path in paths
        }
        return {name: curve for name, curve in curves.items() if curve}

    def _find_sheets(self, stage: str) -> list[Sheet]:
        """The images of a stage; of those named `<title>/<epoch>.<suffix>`, one per title."""
        folder = f"{stage}/plots/images"
        sheets, series = [], {}
        for path in map(PurePosixPath, self.experiment.find(folder)):
            if path.stem.isdecimal() and str(path.parent) != folder:
                series.setdefault(path.parent.name, {})[int(path.stem)] = str(path)
            else:
                sheets.append(Sheet(path.stem, str(path), None))
        best = self.train_metrics.get("best.epoch")
        for title, paths in series.items():
            epoch = int(best) if best in paths else max(paths)
            sheets.append(Sheet(title, paths[epoch], epoch))
        return sheets


def best_of(experiments: Sequence[Experiment], count: int) -> list[Experiment]:
    """The `count` experiments with the highest accuracy on the test images, in their order.

    More than some hundreds can neither be told apart in a chart nor fit on a page. Where the
    accuracy cannot be read, or is no number, it counts as below any other.
    """

    def accuracy(experiment: Experiment) -> float:
        try:
            value = parse_metrics(experiment.read(f"{EVALUATE}/metrics.json"))["accuracy"]
        except (OSError, *PARSE_ERRORS):
            return -math.inf
        return value if math.isfinite(value) else -math.inf

    if len(experiments) <= count:
        return list(experiments)
    chosen = sorted(experiments, key=accuracy, reverse=True)[:count]
    return [experiment for experiment in experiments if experiment in chosen]


def parse_params(content: bytes) -> dict[str, object]:
    """Name, such as "train.learning_rate" -> value. Read as DVC does: `1e-3` is a number."""
    return _flatten(YAML(typ="safe").load(content))


def parse_metrics(content: bytes) -> dict[str, float]:
    """Name, such as "best.epoch" -> number, perhaps NaN or infinite."""
    return {
        name: value
        for name, value in _flatten(json.loads(content)).items()
        if type(value) in (int, float)  # a bool is none of them
    }


def parse_table(content: bytes) -> Curve:
    """The first two columns of a TSV of DVCLive: the step and the metric."""
    rows = list(csv.reader(_lines(content), delimiter="\t"))[1:]
    return _curve(rows, (0, 1))


def parse_points(name: str, content: bytes) -> Curve:
    """A curve of `TEST_CURVES` that DVCLive has logged with `log_sklearn_plot`."""
    return _curve(json.loads(content)[name], TEST_CURVES[name])


def parse_confusion(content: bytes) -> Counter[tuple[str, str]]:
    """True class, predicted class -> number of images."""
    return Counter((str(row["actual"]), str(row["predicted"])) for row in json.loads(content))


def parse_f1(content: bytes) -> dict[str, float]:
    """Class -> F1."""
    return {str(row["class"]): float(row["f1"]) for row in json.loads(content)}


def parse_predictions(content: bytes) -> Predictions:
    """The columns of predictions.csv; of the probabilities, that of the predicted class."""
    (_, _, _, *class_names), *rows = csv.reader(_lines(content))
    columns = {name: column for column, name in enumerate(class_names, start=3)}
    # The same text in every experiment: kept in memory once.
    texts = ([intern(row[column]) for row in rows] for column in range(3))
    return Predictions(*texts, [float(row[columns[row[2]]]) for row in rows])


def _lines(content: bytes) -> io.StringIO:
    return io.StringIO(content.decode(), newline="")


def _curve(points: Sequence, columns: tuple) -> Curve:
    return tuple([float(point[column]) for point in points] for column in columns)


def _flatten(values: dict, prefix: str = "") -> dict[str, object]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
