"""4. An epoch of training on features, and of scikit-learn's `SGDClassifier.partial_fit`.

python benchmarks/training_on_features.py
"""

import argparse
import time
from collections import defaultdict
from statistics import median

import numpy as np
from measure import REPOSITORY, median_ratio, table, temporary_folder, write_section
from sklearn.linear_model import SGDClassifier

ROWS, FEATURES, BATCH_SIZE = 20_000, 1280, 32
EPOCHS = 4  # per round; the first is not counted: it may include the set-up of fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", help="not needed: the features are random numbers")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    generator = np.random.default_rng(0)
    with temporary_folder() as folder:
        np.save(folder / "views.npy", generator.standard_normal((1, ROWS, FEATURES), np.float32))
        views = np.load(folder / "views.npy", mmap_mode="r")
        labels = (views[0, :, 0] > 0).astype(np.int64)
        ways = {
            "this pipeline": build_training(views, labels, dropout=0.2),
            "this pipeline, without dropout": build_training(views, labels, dropout=0.0),
            "partial_fit, 32 rows at a time": partial_fit_batches(views[0], labels),
            "partial_fit, all rows at once": partial_fit_whole(views[0], labels),
        }
        seconds = defaultdict(list)
        for way in ways.values():
            way()  # traces, and reads the file
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(way())
    rows = [
        [name, f"{1000 * median(seconds[name]):.0f}"]
        + [f"{median_ratio(seconds[name], seconds[reference]):.2f}" for reference in list(ways)[2:]]
        for name in ways
    ]
    write_section(
        "4. Training on features",
        [
            *table(
                ["an epoch", "ms", "relative to 32 rows at a time", "relative to all at once"], rows
            ),
            "",
            f"{ROWS:,} x {FEATURES:,} features, two classes, batches of {BATCH_SIZE}; medians of "
            f"{rounds} rounds, ratios within a round. `partial_fit` is logistic regression. *This "
            "pipeline* trains with Adam and dropout 0.2, computes loss and accuracy, and reads a "
            "memory-mapped file; dropout costs as much as the rest of a step, because it needs "
            "41,000 random numbers. *All rows at once* is one call of compiled code, with an "
            "update after each row.",
        ],
    )


def build_training(views: np.ndarray, labels: np.ndarray, dropout: float):
    """Return a function that trains like src/train.py and returns the median time of an epoch."""
    from image_classifier.common.params import read_params
    from image_classifier.computing.prepared import PreparedSplit
    from image_classifier.networks.tensorflow_setup import make_deterministic
    from image_classifier.training.classifier import build_networks
    from image_classifier.training.features import fit_on_features
    from image_classifier.training.optimization import compile_network
    from training import Stopwatch

    make_deterministic(0)
    params = read_params(REPOSITORY / "presets/cats_and_dogs.yaml")
    changes = {"dropout": dropout, "batch_size": BATCH_SIZE, "epochs": EPOCHS}
    train = params.train.model_copy(update=changes)
    params = params.model_copy(update={"train": train})
    network = build_networks(params, FEATURES, class_count=2).fitted
    compile_network(network, params, labels)
    split, one_row = PreparedSplit([], labels, views), PreparedSplit([], labels[:1], views[:, :1])

    def epoch() -> float:
        stopwatch = Stopwatch()
        fit_on_features(network, split, one_row, train, 0, [stopwatch])
        return median(stopwatch.seconds)

    return epoch


def partial_fit_batches(rows: np.ndarray, labels: np.ndarray):
    """Return a function that fits batch by batch, in a random order, and returns its time."""
    classifier = SGDClassifier(loss="log_loss", random_state=0)

    def epoch() -> float:
        start = time.perf_counter()
        order = np.random.default_rng(0).permutation(len(labels))
        for first in range(0, len(order), BATCH_SIZE):
            chosen = order[first : first + BATCH_SIZE]
            classifier.partial_fit(rows[chosen], labels[chosen], classes=[0, 1])
        return time.perf_counter() - start

    return epoch


def partial_fit_whole(rows: np.ndarray, labels: np.ndarray):
    """Return a function that fits all rows in one call and returns its time."""
    classifier = SGDClassifier(loss="log_loss", random_state=0)
    rows = np.array(rows)

    def epoch() -> float:
        start = time.perf_counter()
        classifier.partial_fit(rows, labels, classes=[0, 1])
        return time.perf_counter() - start

    return epoch


if __name__ == "__main__":
    main()
