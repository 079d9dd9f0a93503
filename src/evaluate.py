"""Measure the trained network on the test pictures, which nothing before has looked at."""

import csv
from pathlib import Path

import numpy as np

from image_classifier.errors import InputError, run
from image_classifier.images import load_batches
from image_classifier.inputs import StageInputs
from image_classifier.metadata import TrainedOn
from image_classifier.params import read_params
from image_classifier.prepared import PreparedSplit, open_splits
from image_classifier.raw_data import FOLDER as RAW
from image_classifier.raw_data import locate

MODEL = Path("models/model.keras")
FOLDER = Path("dvclive/evaluate")
CHECK_BATCH_SIZE = 16
TOLERANCE = 1e-3  # of a probability; other batches and threads change it by about 1e-6


def main(model=None) -> None:
    """Evaluate as params.yaml says.

    Args:
        model: what src/train.py has just saved, if it is at hand. Its file is then neither read nor
            checked against the pictures, which takes longer than all the rest.
    """
    inputs = StageInputs("evaluate")
    params = read_params().evaluate
    class_names, (test,) = open_splits("test")

    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.evaluation import log_curves, per_class, summarise
    from image_classifier.live import open_live, replacing
    from image_classifier.model import load_model, predict_probabilities
    from image_classifier.pictures import load_pictures, prediction_sheet, worst_first

    from_file = model is None
    if from_file:
        model, trained_names, trained_on = load_model(MODEL)
        if trained_names != class_names:
            raise InputError(f"{MODEL}: trained on other classes than data/prepared; train it anew")
    probabilities = predict_probabilities(model, test.views)
    if from_file:
        check_against_files(model, trained_on, test, probabilities, params.check_images)

    predictions = probabilities.argmax(axis=1)
    with replacing(FOLDER) as folder, open_live(folder) as live:
        for name, value in summarise(test.labels, probabilities, params.calibration_bins).items():
            live.log_metric(name, value, plot=False)
        live.log_sklearn_plot(
            "confusion_matrix",
            [class_names[label] for label in test.labels],
            [class_names[label] for label in predictions],
        )
        log_curves(live, test.labels, probabilities, params.calibration_bins)
        live.log_plot(
            "per_class",
            per_class(test.labels, probabilities, class_names),
            x="f1",
            y="class",
            template="bar_horizontal",
            title="F1 of each class",
        )
        rows = worst_first(test.labels, probabilities)
        mistakes = [row for row in rows if predictions[row] != test.labels[row]]
        if params.log_images:
            shown = mistakes[: params.log_images]
            records = [test.records[row] for row in shown]
            sheet = prediction_sheet(
                load_pictures(RAW, records),
                [record.class_name for record in records],
                probabilities[shown],
                class_names,
                title=f"{len(mistakes)} mistakes on {len(rows)} test pictures, the worst first",
            )
            live.log_image("mistakes.jpg", sheet)
        write_predictions(folder / "predictions.csv", test, probabilities, class_names)
        inputs.check_unchanged()
    print(f"{len(mistakes)} mistakes on {len(rows)} test pictures")


def check_against_files(
    model, trained_on: TrainedOn, test: PreparedSplit, probabilities: np.ndarray, count: int
) -> None:
    """Let the saved model classify `count` test pictures from their files.

    Raises:
        InputError: if it does not give the `probabilities` that the prepared arrays gave.
    """
    rows = np.linspace(0, len(test.records) - 1, min(count, len(test.records))).astype(int)
    paths = [locate(RAW, test.records[row].path) for row in rows]
    batches = load_batches(paths, CHECK_BATCH_SIZE, trained_on.image_size, trained_on.color_mode)
    # Called as it is: to have so few pictures classified by a compiled function takes longer.
    from_files = np.concatenate([model(batch, training=False).numpy() for batch in batches])
    differences = np.abs(from_files - probabilities[rows]).max(axis=1)
    if not differences.max() <= TOLERANCE:
        raise InputError(
            f"{paths[differences.argmax()]}: {MODEL} gives probabilities that differ by "
            f"{differences.max():.2g} from those of data/prepared, allowed: {TOLERANCE:g}; "
            "`dvc repro --force --downstream prepare` makes both anew"
        )
    print(f"{MODEL} agrees with data/prepared on {len(rows)} files, to {differences.max():.1g}")


def write_predictions(
    path: Path, test: PreparedSplit, probabilities: np.ndarray, class_names: list[str]
) -> None:
    """Write each test picture's path, class, predicted class and probabilities as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "class", "predicted", *class_names])
        for record, outputs in zip(test.records, probabilities, strict=True):
            predicted = class_names[outputs.argmax()]
            figures = [f"{output:.6f}" for output in outputs]
            writer.writerow([record.path, record.class_name, predicted, *figures])


if __name__ == "__main__":
    run(main)
