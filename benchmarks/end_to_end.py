"""5. Training from pixels by train, and by the same network fed with Keras' cached files.

python benchmarks/end_to_end.py /path/to/cats_and_dogs_filtered.zip
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from measure import (
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)

EPOCHS = 3  # the first, which traces and fills caches, is not counted
NETWORKS = {
    "cnn, 64x64": {
        "model__backbone": "cnn",
        "prepare__image_size": 64,
    },
    "efficientnet_lite0 with 3 layers trained, 96x96": {
        "model__backbone": "efficientnet_lite0",
        "model__fine_tune_layers": 3,
        "prepare__image_size": 96,
    },
}
WAYS = ("cached", "here")
TRAINING_PHOTOS = Path("training_photos")


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1] in WAYS:
        train(sys.argv[1])
        return
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    rows = []
    with temporary_folder() as folder:
        for number, (name, changes) in enumerate(NETWORKS.items()):
            project = make_project(
                folder / str(number), "cats_and_dogs", arguments.photos, **changes
            )
            run(["dvc", "repro", "prepare"], project)
            link_training_photos(project)
            seconds, peaks = defaultdict(list), defaultdict(list)
            for _ in range(arguments.rounds):
                for way in WAYS:
                    done = run([sys.executable, str(Path(__file__).resolve()), way], project)
                    seconds[way].append(json.loads(done.output.splitlines()[-1]))
                    peaks[way].append(done.peak_bytes / 2**20)
            for way, text in zip(
                WAYS, (".cache().prefetch(AUTOTUNE)", "this pipeline"), strict=True
            ):
                figures = (
                    f"{median(seconds[way]):.1f}",
                    f"{median_ratio(seconds[way], seconds['cached']):.2f}",
                    f"{median(peaks[way]):,.0f}",
                )
                rows.append([f"{name}, {text}", *figures])
                print(rows[-1], flush=True)
    write_section(
        "5. Training from pixels",
        [
            *table(["", "seconds per epoch", "ratio", "peak memory, MiB"], rows),
            "",
            "The training photos in batches of 32, with flips and rotations inside the network. "
            "The ways alternate, each in its own process with oneDNN; only epochs after the first "
            f"count; medians of {arguments.rounds} rounds, ratios within a round. With "
            "`.cache().prefetch(AUTOTUNE)` the end of an epoch often waits for the thread that "
            "tunes tf.data, which may sleep for seconds; this pipeline has no such thread, and its "
            "results repeat to the bit.",
        ],
    )


def link_training_photos(project: Path) -> None:
    """Link the training images to folders, which Keras reads."""
    from image_classifier.computing.prepared import TABLE, read_table, records_of

    for record in records_of(read_table(project / TABLE), "train"):
        link = project / TRAINING_PHOTOS / record.class_name / record.path.replace("/", " ")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(project / "data/raw" / record.path)


def train(way: str) -> None:
    """Fit in the current project in one way, and print the median seconds of an epoch."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path.insert(0, "src")
    from image_classifier.common.params import read_params
    from image_classifier.computing.prepared import open_splits
    from image_classifier.networks.tensorflow_setup import keras, make_deterministic, tf
    from image_classifier.training.batches import training_batches
    from image_classifier.training.classifier import build_networks
    from image_classifier.training.optimization import compile_network
    from training import epoch_seconds

    params = read_params()
    size, batch_size = params.prepare.image_size, params.train.batch_size
    class_names, (split,) = open_splits("train")
    if way == "here":
        make_deterministic(0)
        data = training_batches(split.views, split.labels, batch_size, seed=0)
    else:
        data = keras.utils.image_dataset_from_directory(
            TRAINING_PHOTOS, image_size=(size, size), batch_size=batch_size, verbose=False
        )
        data = data.cache().prefetch(tf.data.AUTOTUNE)
    network = build_networks(params, split.views.shape[-1], len(class_names)).fitted
    compile_network(network, params, split.labels)
    print(json.dumps(epoch_seconds(network, data, EPOCHS)))


if __name__ == "__main__":
    main()
