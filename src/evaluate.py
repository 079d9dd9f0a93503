"""Evaluate the trained model on the test images, which no earlier stage has used."""

from image_classifier.common.script import run_stage

from image_classifier.common.params import read_params
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.computing.prepared import open_splits
from image_classifier.outputs.result_files import restore_outputs

WHERE_TO_LOOK = """
Look at  dvclive/evaluate/report.html   curves and the worst mistakes
         dvc exp show --only-changed    table of experiments
         dvc plots show                 all plots as a page
         python src/review.py           probable mistakes in the data"""


def main() -> None:
    restore_outputs("evaluate")
    inputs = StageInputs("evaluate")
    params = read_params().evaluate
    class_names, (test,) = open_splits("test")

    # Imported here: these take a second to load, and errors in parameters come first.
    from image_classifier.evaluation import steps
    from image_classifier.outputs.live import EVALUATE_LOG, StageLog
    from image_classifier.outputs.openvino_file import OPENVINO_FILE, load_translated
    from image_classifier.outputs.result_files import replacing

    trained = load_translated(OPENVINO_FILE)
    steps.check_classes(trained, class_names)
    probabilities = steps.predict_probabilities(trained.network, test.views)
    steps.check_against_files(trained, test, params.check_images)

    with replacing(EVALUATE_LOG) as folder, StageLog(EVALUATE_LOG, folder) as live:
        accuracy = steps.log_test_results(live, test, probabilities, class_names, params)
        inputs.check_unchanged()
    print_results(live.summary["test"], accuracy)


def print_results(metrics: dict[str, float], accuracy: dict[str, float | int]) -> None:
    """Print a table of the metrics and the accuracy's interval, and where to find more."""
    rows = {f"test.{name}": f"{value:.4f}" for name, value in metrics.items()}
    low, high, confidence = (accuracy[key] for key in ("low", "high", "confidence"))
    rows["test.accuracy"] += f"  ({confidence:.0%} interval: {low:.3f} to {high:.3f})"
    mistakes = accuracy["images"] - accuracy["correct"]
    rows["mistakes"] = f"{mistakes:,} of {accuracy['images']:,} test images"
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")
    print(WHERE_TO_LOOK)


if __name__ == "__main__":
    run_stage(main)
