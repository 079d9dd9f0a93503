"""Measure the trained network on the test images, which no earlier stage has looked at."""

from image_classifier.common.params import read_params
from image_classifier.common.script import run
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.computing.prepared import open_splits


def main() -> None:
    inputs = StageInputs("evaluate")
    params = read_params().evaluate
    class_names, (test,) = open_splits("test")

    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.evaluation import steps
    from image_classifier.outputs.live import EVALUATE_LOG, StageLog, replacing
    from image_classifier.outputs.model_file import MODEL_FILE, load_model
    from image_classifier.outputs.predicting import predict_probabilities

    trained = load_model(MODEL_FILE)
    steps.check_classes(trained, class_names)
    probabilities = predict_probabilities(trained.network, test.views)
    steps.check_against_files(trained, test, probabilities, params.check_images)

    with replacing(EVALUATE_LOG) as folder, StageLog(folder) as live:
        mistakes = steps.log_test_results(live, test, probabilities, class_names, params)
        inputs.check_unchanged()
    print(f"{mistakes} mistakes on {len(test.records)} test images")


if __name__ == "__main__":
    run(main)
