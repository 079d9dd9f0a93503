"""The steps of an evaluation, for src/evaluate.py and the trials of sweeps."""

import csv
from pathlib import Path

import numpy as np
from dvclive import Live

from image_classifier.common.errors import InputError
from image_classifier.common.images import load_batches
from image_classifier.common.params import EvaluateParams
from image_classifier.common.raw_data import RAW_DATA, locate
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.evaluation.metrics import log_curves, per_class, summarise
from image_classifier.outputs.model_file import MODEL_FILE, TrainedModel
from image_classifier.outputs.prediction_log import log_confusion_matrix, log_prediction_sheet
from image_classifier.outputs.sheets import worst_first

CHECK_BATCH_SIZE = 16
TOLERANCE = 1e-3  # of probabilities; other batch sizes and threads change them by about 1e-6


def check_classes(trained: TrainedModel, class_names: list[str]) -> None:
    """Raise `InputError` if the model's classes differ from those of the prepared data."""
    if trained.class_names != class_names:
        raise InputError(
            f"{MODEL_FILE}: trained on other classes than those in data/prepared; train it again"
        )


def check_against_files(
    trained: TrainedModel, test: PreparedSplit, probabilities: np.ndarray, count: int
) -> None:
    """Check that the saved model classifies test image files as it does prepared arrays.

    `count` images are checked against their rows of `probabilities`.

    Raises:
        InputError: if the probabilities differ.
    """
    rows = np.linspace(0, len(test.records) - 1, min(count, len(test.records))).astype(int)
    paths = [locate(RAW_DATA, test.records[row].path) for row in rows]
    size, color_mode = trained.trained_on.image_size, trained.trained_on.color_mode
    batches = load_batches(paths, CHECK_BATCH_SIZE, size, color_mode)
    # Not `predict`: compiling takes longer than classifying so few images.
    from_files = [trained.network(batch, training=False).numpy() for batch in batches]
    differences = np.abs(np.concatenate(from_files) - probabilities[rows]).max(axis=1)
    if not differences.max() <= TOLERANCE:
        raise InputError(
            f"{paths[differences.argmax()]}: {MODEL_FILE} gives probabilities that differ by "
            f"{differences.max():.2g} from those of data/prepared, allowed: {TOLERANCE:g}; "
            "`dvc repro --force --downstream prepare` creates both again"
        )


def log_test_results(
    live: Live,
    test: PreparedSplit,
    probabilities: np.ndarray,
    class_names: list[str],
    params: EvaluateParams,
) -> int:
    """Log metrics, curves, a sheet of mistakes, and predictions.csv.

    `probabilities` are float32 (n, class_count).

    Returns:
        The number of mistakes.

    Raises:
        InputError: naming the file, if an image cannot be decoded.
    """
    for name, value in summarise(test.labels, probabilities, params.calibration_bins).items():
        live.log_metric(f"test/{name}", value, plot=False)
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
    return len(mistakes)


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
