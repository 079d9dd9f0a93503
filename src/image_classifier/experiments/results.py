"""Results of an experiment: parameters, metrics, curves, predictions and sheets.

Missing and unreadable files are listed as problems and leave their results empty; all other
results are read.
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
# Curves on the test images: DVCLive's name -> columns.
TEST_CURVES = {
    "roc": ("fpr", "tpr"),
    "precision_recall": ("recall", "precision"),
    "calibration": ("prob_pred", "prob_true"),
}
# Exceptions that the parsers below raise on content of another format.
PARSE_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, csv.Error, YAMLError)

Curve = tuple[list[float], list[float]]  # x and y of the points in order, perhaps NaN or infinite
Value = TypeVar("Value")


class Predictions(NamedTuple):
    """Path in data/raw, class, predicted class and its probability, for each test image."""

    paths: list[str]
    class_names: list[str]
    predicted: list[str]
    probabilities: list[float]


class Sheet(NamedTuple):
    """A sheet or another image that a stage has logged."""

    title: str
    path: str
    epoch: int | None  # of a series with a sheet for several epochs: the best one, or else the last


class Results:
    """The results of one experiment, read when it is created."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.problems: list[str] = []  # a line for each missing or unreadable file
        self.params = self._read("params.yaml", parse_params, {})
        self.train_metrics = self._read(f"{TRAIN}/metrics.json", parse_metrics, {})
        self.test_metrics = self._read(f"{EVALUATE}/metrics.json", parse_test_metrics, {})
        self.accuracy_interval = self._read(
            f"{EVALUATE}/test_accuracy.json", parse_interval, None, needed=False
        )
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

    def _read(
        self, path: str, parse: Callable[[bytes], Value], default: Value, needed: bool = True
    ) -> Value:
        """Read a file; if it is not `needed`, early experiments lack it, and that is no problem."""
        try:
            return parse(self.experiment.read(path))
        except FileNotFoundError:
            if needed:
                self.problems.append(f"{path}: neither in Git nor in DVC's cache")
        except (OSError, *PARSE_ERRORS):
            self.problems.append(f"{path}: cannot be read")
        return default

    def _read_training_curves(self) -> dict[str, Curve]:
        """Name, such as "eval/accuracy" -> curve over the epochs."""
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
        """The images of a stage; of a series `<title>/<epoch>.<suffix>`, one image per title."""
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
    """The `count` experiments with the highest test accuracy, in their original order.

    With more than a few hundred, lines in a chart cannot be distinguished and the page gets too
    large. An accuracy that cannot be read, or is not a number, counts as the lowest.
    """

    def accuracy(experiment: Experiment) -> float:
        try:
            value = parse_test_metrics(experiment.read(f"{EVALUATE}/metrics.json"))["test.accuracy"]
        except (OSError, *PARSE_ERRORS):
            return -math.inf
        return value if math.isfinite(value) else -math.inf

    if len(experiments) <= count:
        return list(experiments)
    chosen = sorted(experiments, key=accuracy, reverse=True)[:count]
    return [experiment for experiment in experiments if experiment in chosen]


def parse_params(content: bytes) -> dict[str, object]:
    """Name, such as "train.learning_rate" -> value. As in DVC, `1e-3` is a number."""
    return _flatten(YAML(typ="safe").load(content))


def parse_metrics(content: bytes) -> dict[str, float]:
    """Name, such as "best.epoch" -> number, perhaps NaN or infinite."""
    return {
        name: value
        for name, value in _flatten(json.loads(content)).items()
        if type(value) in (int, float)  # not a bool
    }


def parse_test_metrics(content: bytes) -> dict[str, float]:
    """Name, such as "test.accuracy" -> number. Early experiments lack the prefix: it is added."""
    metrics = parse_metrics(content)
    return {f"test.{name.removeprefix('test.')}": value for name, value in metrics.items()}


def parse_interval(content: bytes) -> tuple[float, float]:
    """The bounds of the test accuracy's confidence interval."""
    values = parse_metrics(content)
    low, high = values["low"], values["high"]
    if not 0 <= low <= high <= 1:
        raise ValueError
    return low, high


def parse_table(content: bytes) -> Curve:
    """The first two columns of a TSV file of DVCLive: step and metric."""
    rows = list(csv.reader(_lines(content), delimiter="\t"))[1:]
    return _curve(rows, (0, 1))


def parse_points(name: str, content: bytes) -> Curve:
    """A curve of `TEST_CURVES`, logged by DVCLive's `log_sklearn_plot`."""
    return _curve(json.loads(content)[name], TEST_CURVES[name])


def parse_confusion(content: bytes) -> Counter[tuple[str, str]]:
    """True class, predicted class -> number of images."""
    return Counter((str(row["actual"]), str(row["predicted"])) for row in json.loads(content))


def parse_f1(content: bytes) -> dict[str, float]:
    """Class -> F1."""
    return {str(row["class"]): float(row["f1"]) for row in json.loads(content)}


def parse_predictions(content: bytes) -> Predictions:
    """The columns of predictions.csv, with the probability of the predicted class only."""
    (_, _, _, *class_names), *rows = csv.reader(_lines(content))
    columns = {name: column for column, name in enumerate(class_names, start=3)}
    # Experiments repeat the same texts: keep each in memory once.
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
