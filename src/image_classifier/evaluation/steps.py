"""The steps of an evaluation, for src/evaluate.py and the trials of sweeps."""

import csv
from pathlib import Path

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.common.images import load_batches
from image_classifier.common.params import EvaluateParams
from image_classifier.common.progress import progress_bar
from image_classifier.common.raw_data import RAW_DATA, locate
from image_classifier.computing.openvino_model import (
    ROWS_PER_REQUEST,
    build_function,
    classifier_of,
    openvino,
    shape_of,
)
from image_classifier.computing.prepared import PreparedSplit, Shards, check_shape
from image_classifier.computing.prepared_network import read_record
from image_classifier.evaluation.metrics import (
    accuracy_interval,
    log_curves,
    per_class,
    summarise,
)
from image_classifier.outputs.live import ACCURACY_FILE, StageLog
from image_classifier.outputs.openvino_file import OPENVINO_FILE, TranslatedModel
from image_classifier.outputs.prediction_log import log_confusion_matrix, log_prediction_sheet
from image_classifier.outputs.sheets import worst_first

IMAGES_AT_ONCE = 1024
CHECK_BATCH_SIZE = 16
PIXEL_DIFFERENCE = 2.0  # mean over an image, in grey levels; versions of a decoder differ by 1 or 2


def check_classes(trained: TranslatedModel, class_names: list[str]) -> None:
    """Raise `InputError` if the model's classes differ from those of the prepared data."""
    if trained.class_names != class_names:
        raise InputError(
            f"{OPENVINO_FILE}: trained on other classes than those in data/prepared; train it again"
        )


def predict_probabilities(network: openvino.Model, views: Shards | np.ndarray) -> np.ndarray:
    """A whole model's probabilities for prepared images, float32 (n, class_count).

    `views` are pixels, uint8 (1, n, image_size, image_size, channels), or features, float32
    (1, n, d); for features the backbone is not run.

    Raises:
        InputError: if the prepared images do not have the shape that the model takes.
    """
    rows = ROWS_PER_REQUEST
    if views.ndim == 3:
        network, rows = classifier_of(network), IMAGES_AT_ONCE
    check_shape(views, shape_of(network.input(0))[1:])
    classify = build_function(network, "probabilities", rows)
    parts = []
    with progress_bar("evaluating", views.shape[1]) as progress:
        for start in range(0, views.shape[1], IMAGES_AT_ONCE):
            parts.append(classify(views[0, start : start + IMAGES_AT_ONCE]))
            progress.update(len(parts[-1]))
    return np.concatenate(parts)


def check_against_files(trained: TranslatedModel, test: PreparedSplit, count: int) -> None:
    """Check that the saved model sees in `count` test image files what is in data/prepared.

    Features are compared, or pixels if the backbone was trained. Probabilities would not do: large
    weights of the classifier turn rounding into another class.

    Raises:
        InputError: if they differ; names the image that differs most.
    """
    rows = np.linspace(0, len(test.records) - 1, min(count, len(test.records))).astype(int)
    paths = [locate(RAW_DATA, test.records[row].path) for row in rows]
    size, color_mode = trained.trained_on.image_size, trained.trained_on.color_mode
    has_features = test.views.ndim == 3
    if has_features:
        extract = build_function(trained.network, "features")
        tolerance = read_record().feature_tolerance
    batches = load_batches(paths, CHECK_BATCH_SIZE, size, color_mode)
    for first, batch in zip(range(0, len(rows), CHECK_BATCH_SIZE), batches, strict=True):
        prepared = test.views[0, rows[first : first + CHECK_BATCH_SIZE]]
        if has_features:
            differences = np.linalg.norm(extract(batch) - prepared, axis=1)
            found, allowed = np.linalg.norm(differences), tolerance * np.linalg.norm(prepared)
            what = f"{OPENVINO_FILE} gives features at a distance of {found:.3g} from"
        else:
            differences = np.abs(batch - prepared.astype(np.float32)).mean(axis=(1, 2, 3))
            found, allowed = differences.max(), PIXEL_DIFFERENCE
            what = f"its pixels differ on average by {found:.3g} grey levels from"
        if not found <= allowed:
            raise InputError(
                f"{paths[first + differences.argmax()]}: {what} those in data/prepared, allowed: "
                f"{allowed:.3g}; `dvc repro --force --downstream prepare` creates both again"
            )


def log_test_results(
    live: StageLog,
    test: PreparedSplit,
    probabilities: np.ndarray,
    class_names: list[str],
    params: EvaluateParams,
) -> dict[str, float | int]:
    """Log metrics, curves, a sheet of mistakes, and predictions.csv.

    `probabilities` are float32 (n, class_count).

    Returns:
        The accuracy and its interval: see `accuracy_interval`.

    Raises:
        InputError: naming the file, if an image cannot be decoded.
    """
    for name, value in summarise(test.labels, probabilities, params.calibration_bins).items():
        live.log_metric(f"test/{name}", value, plot=False)
    accuracy = accuracy_interval(test.labels, probabilities)
    live.write_json(ACCURACY_FILE, accuracy)
    log_confusion_matrix(live, test.labels, probabilities, class_names)
    log_curves(live, test.labels, probabilities, params.calibration_bins)
    classes = per_class(test.labels, probabilities, class_names)
    live.log_plot("per_class", classes, x="f1", y="class")
    wrong = probabilities.argmax(axis=1) != test.labels
    mistakes = [row for row in worst_first(test.labels, probabilities) if wrong[row]]
    if params.log_images:
        rows = mistakes[: params.log_images]
        title = f"Mistakes: {len(mistakes):,} of {len(wrong):,} test images, the worst first"
        log_prediction_sheet(
            live, "mistakes.jpg", test, rows, probabilities, class_names, title, params.log_images
        )
    write_predictions(Path(live.dir, "predictions.csv"), test, probabilities, class_names)
    return accuracy


def write_predictions(
    path: Path, test: PreparedSplit, probabilities: np.ndarray, class_names: list[str]
) -> None:
    """Write each test image's path, class, predicted class and probabilities as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "class", "predicted", *class_names])
        for record, outputs in zip(test.records, probabilities, strict=True):
            predicted = class_names[outputs.argmax()]
            cells = [f"{output:.6f}" for output in outputs]
            writer.writerow([record.path, record.class_name, predicted, *cells])
