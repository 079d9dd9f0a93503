"""1 and 2. The first and the next experiment, compared with running the network in every epoch.

python benchmarks/experiments.py /path/to/cats_and_dogs_filtered.zip
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

from measure import (
    LITE0,
    REPOSITORY,
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)

from image_classifier.computing.prepared import TABLE, read_table

EPOCHS = 15
RANDOM = {"model__weights": "random"}
DEFAULT, LARGEST = "efficientnet_lite0, 5 views", "resnet50, 15 views"
# Name -> preset, changes, and the number of rounds that run its first experiment.
VARIANTS = {
    DEFAULT: ("cats_and_dogs", {**LITE0, "prepare__views": 5}, 2),
    "resnet50, 1 view": ("cats_and_dogs_resnet50", {"prepare__views": 1, **RANDOM}, 2),
    LARGEST: ("cats_and_dogs_resnet50", {"prepare__views": 15, **RANDOM}, 1),
}
TUTORIAL = REPOSITORY / "benchmarks/tutorial.py"


def main() -> None:
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    with temporary_folder() as folder:
        measure(arguments.photos, arguments.rounds, folder)


def measure(photos: Path, rounds: int, folder: Path) -> None:
    """Measure everything, in projects below `folder`, and write the section."""
    tutorial, first, following = [], defaultdict(list), defaultdict(list)
    accuracies = []
    projects: dict[str, Path] = {}
    for number in range(rounds):
        for name, (preset, changes, times) in VARIANTS.items():
            if number < times:
                target = folder / f"{name} {number}"
                projects[name] = make_project(target, preset, photos, **changes)
                first[name].append(run(["dvc", "exp", "run"], target).seconds)
                print(f"{name}, first: {first[name][-1]:.1f} s", flush=True)
        tutorial.append(tutorial_seconds(projects[DEFAULT] / "data/raw"))
        print(f"network in every epoch: {tutorial[-1]:,.0f} s", flush=True)
        for name, project in projects.items():
            command = ["dvc", "exp", "run", "-S", f"train.learning_rate=0.00{number + 11}"]
            following[name].append(run(command, project).seconds)
            print(f"{name}, next: {following[name][-1]:.1f} s", flush=True)
    without_tuning = tutorial_seconds(projects[DEFAULT] / "data/raw", "--without-tuning")
    for seed in range(5):
        values = ["-S", "train.learning_rate=0.001", "-S", f"train.seed={seed}"]
        run(["dvc", "exp", "run", *values], projects[DEFAULT])
        accuracies.append(accuracy(projects[DEFAULT]))

    rows = [[f"network in every epoch, {EPOCHS} epochs", f"{median(tutorial):,.0f}", "1", "", "1"]]
    for name in VARIANTS:
        figures = []
        for seconds in (first[name], following[name]):
            ratio = median_ratio(tutorial[: len(seconds)], seconds)
            figures += [f"{median(seconds):,.1f}", f"{ratio:,.1f}"]
        rows.append([name, *figures])
    header = ["", "first, seconds", "times as fast", "next, seconds", "times as fast"]
    spread = ", ".join(f"{seconds:,.0f}" for seconds in tutorial)
    write_section(
        "1 and 2. An experiment, the first and the next",
        [
            *table(header, rows),
            "",
            "*Network in every epoch* decodes, augments and runs ResNet50 in each epoch, with "
            "TensorFlow's default settings, as tutorials do ([tutorial.py](tutorial.py)); each "
            f"round runs one epoch and counts its time after the first batch {EPOCHS} times "
            f"({spread} s). The other rows are the command `dvc exp run`, with all stages, logs "
            "and plots: the first run starts from an archive of JPEGs with nothing cached, the "
            f"next one has another `train.learning_rate`. Medians of {rounds} rounds, ratios "
            "within a round; the first run was measured in two of them, with 15 views in one. All "
            "weights of ResNet50 are random.",
            "",
            "By default the end of an epoch often waits for the thread that tunes tf.data, which "
            "may sleep for up to a minute. Without this thread, the network in every epoch takes "
            f"{without_tuning:,.0f} s (measured once); the next experiment is "
            f"{without_tuning / median(following[LARGEST]):.0f} times as fast with {LARGEST}, and "
            f"{without_tuning / median(following[DEFAULT]):.0f} times with {DEFAULT}.",
            "",
            f"Accuracy of {DEFAULT} on the validation and test photos together, on which the "
            f"tutorials validate, with train.seed 0 to {len(accuracies) - 1}: "
            f"{', '.join(f'{figure:.3f}' for figure in accuracies)}.",
        ],
    )


def accuracy(project: Path) -> float:
    """The accuracy on validation and test images together."""
    train = json.loads((project / "dvclive/train/metrics.json").read_text())["best"]["eval"]
    test = json.loads((project / "dvclive/evaluate/metrics.json").read_text())["test"]
    counts = Counter(record.split for record in read_table(project / TABLE))
    correct = train["accuracy"] * counts["validation"] + test["accuracy"] * counts["test"]
    return correct / (counts["validation"] + counts["test"])


def tutorial_seconds(raw: Path, *options: str) -> float:
    """Extrapolate the time of all epochs from one of them: they all do the same work."""
    command = [sys.executable, str(TUTORIAL), str(raw), "--epochs", "1", *options]
    output = run(command, raw, TF_CPP_MIN_LOG_LEVEL="3").output
    seconds = json.loads(output.splitlines()[-1])
    first_batch, (epoch, *_) = seconds["first_batch"], seconds["epochs"]
    return first_batch + EPOCHS * (epoch - first_batch)


if __name__ == "__main__":
    main()
