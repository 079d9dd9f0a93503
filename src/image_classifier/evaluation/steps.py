"""The steps of an evaluation, for src/evaluate.py and the trials of sweeps."""

import csv
from functools import partial
from pathlib import Path

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.common.images import load_batches
from image_classifier.common.params import EvaluateParams
from image_classifier.common.raw_data import RAW_DATA, locate
from image_classifier.computing.prepared import PreparedSplit
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.evaluation.metrics import (
    accuracy_interval,
    log_curves,
    per_class,
    summarise,
)
from image_classifier.outputs.live import ACCURACY_FILE, StageLog
from image_classifier.outputs.model_file import MODEL_FILE, TrainedModel
from image_classifier.outputs.prediction_log import log_confusion_matrix, log_prediction_sheet
from image_classifier.outputs.sheets import worst_first

CHECK_BATCH_SIZE = 16
# Features of a batch may differ as much as if each weight of the backbone changed at random by up
# to 0.4%. A GPU's rounding to TF32 is a tenth of that, float32's below a thousandth; the smallest
# fault in the tests, a wrong resize, is twice as much. See docs/reliability.md.
WEIGHT_CHANGE = 0.004
PIXEL_DIFFERENCE = 2.0  # mean over an image, in grey levels; versions of a decoder differ by 1 or 2


def check_classes(trained: TrainedModel, class_names: list[str]) -> None:
    """Raise `InputError` if the model's classes differ from those of the prepared data."""
    if trained.class_names != class_names:
        raise InputError(
            f"{MODEL_FILE}: trained on other classes than those in data/prepared; train it again"
        )


def check_against_files(trained: TrainedModel, test: PreparedSplit, count: int) -> None:
    """Check that the saved model sees in `count` test image files what is in data/prepared.

    Features are compared, or pixels if the backbone was trained. Probabilities would not do: large
    weights of the classifier turn rounding into another class.

    Raises:
        InputError: if they differ; names the image that differs most.
    """
    rows = np.linspace(0, len(test.records) - 1, min(count, len(test.records))).astype(int)
    paths = [locate(RAW_DATA, test.records[row].path) for row in rows]
    size, color_mode = trained.trained_on.image_size, trained.trained_on.color_mode
    batches = load_batches(paths, CHECK_BATCH_SIZE, size, color_mode)
    for first, batch in zip(range(0, len(rows), CHECK_BATCH_SIZE), batches, strict=True):
        prepared = test.views[0, rows[first : first + CHECK_BATCH_SIZE]]
        if test.views.ndim == 3:
            extractor = trained.network.get_layer("feature_extractor")
            differences, allowed = _compare_features(extractor, batch, prepared)
            found = np.linalg.norm(differences)
            what = f"{MODEL_FILE} gives features at a distance of {found:.3g} from"
        else:
            differences = np.abs(batch - prepared.astype(np.float32)).mean(axis=(1, 2, 3))
            found, allowed = differences.max(), PIXEL_DIFFERENCE
            what = f"its pixels differ on average by {found:.3g} grey levels from"
        if not found <= allowed:
            raise InputError(
                f"{paths[first + differences.argmax()]}: {what} those in data/prepared, allowed: "
                f"{allowed:.3g}; `dvc repro --force --downstream prepare` creates both again"
            )


def _compare_features(
    extractor: keras.Model, pixels: np.ndarray, prepared: np.ndarray
) -> tuple[np.ndarray, float]:
    """The distance of each image's features from the prepared ones, and the allowed norm of all.

    `pixels` are uint8 (n, image_size, image_size, channels), `prepared` float32 (n, d).
    """
    # Not `predict`: compiling takes longer than the features of so few images.
    features = extractor(pixels, training=False).numpy()
    weights, random = extractor.get_weights(), np.random.default_rng(0)
    change = partial(random.uniform, 1 - WEIGHT_CHANGE, 1 + WEIGHT_CHANGE)
    extractor.set_weights([(w * change(w.shape)).astype(w.dtype) for w in weights])
    changed = extractor(pixels, training=False).numpy()
    extractor.set_weights(weights)
    return np.linalg.norm(features - prepared, axis=1), np.linalg.norm(features - changed)


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
