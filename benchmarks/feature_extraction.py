"""3. Feature extraction by prepare and by `keras.Model.predict`, on the same decoded batches.

python benchmarks/feature_extraction.py /path/to/cats_and_dogs_filtered.zip
"""

import json
import os
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from measure import (
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)

IMAGE_SIZE = 180
BATCH_SIZE = 32  # the default of predict
COUNTS = {"resnet50": 128, "efficientnet_lite0": 512}  # photos: at most half a minute each
WAYS = {
    "predict": {},
    "predict without tuning": {},
    "predict without tuning, with oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "1"},  # off on AMD by default
    "prepare": {},
}


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] in WAYS:
        extract(*sys.argv[1:])
        return
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    with temporary_folder() as folder:
        project = make_project(folder / "project", "cats_and_dogs", arguments.photos)
        run(["dvc", "repro", "download"], project)
        rows = [row for backbone in COUNTS for row in measure(backbone, arguments.rounds, project)]
    write_section(
        "3. Feature extraction",
        [
            *table(
                ["", "photos per second", "times as fast as predict", "largest difference"], rows
            ),
            "",
            f"Decoded photos of {IMAGE_SIZE}x{IMAGE_SIZE} in batches of {BATCH_SIZE}. The ways "
            "alternate, each in its own process, and the second pass over the photos counts; "
            f"medians of {arguments.rounds} rounds, ratios within a round. `predict` is "
            "`keras.Model.predict` with TensorFlow's default settings: it often waits at its end "
            "for the thread that tunes tf.data, which may sleep for seconds. *Without tuning* "
            "turns this thread off. Differences are relative to the largest feature. The weights "
            "of resnet50 are random.",
        ],
    )


def measure(backbone: str, rounds: int, project: Path) -> list[list[str]]:
    """Compare the ways, and return rows of the table."""
    rates = defaultdict(list)
    for _ in range(rounds):
        for way, environment in WAYS.items():
            target = project.parent / f"{backbone} {way}.npy"
            command = [sys.executable, str(Path(__file__).resolve()), way, backbone, str(target)]
            output = run([*command, str(project)], project, **environment).output
            rates[way].append(json.loads(output.splitlines()[-1]))
            print(f"{backbone}, {way}: {rates[way][-1]:.1f} photos per second", flush=True)
    expected = np.load(project.parent / f"{backbone} predict.npy")
    rows = []
    for way in WAYS:
        features = np.load(project.parent / f"{backbone} {way}.npy")
        difference = np.abs(features - expected).max() / np.abs(expected).max()
        ratio = median_ratio(rates[way], rates["predict"])
        rows.append(
            [f"{backbone}, {way}", f"{median(rates[way]):.1f}", f"{ratio:.2f}", f"{difference:.1g}"]
        )
    return rows


def extract(way: str, backbone: str, target: str, project: str) -> None:
    """Compute features one way and print the photos per second."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if way.startswith("predict"):
        import tensorflow  # noqa: F401  (first, without this repository's settings)
    sys.path.insert(0, str(Path(project, "src")))
    from image_classifier.common.class_folders import find_class_folders, find_files
    from image_classifier.common.images import load_batches
    from image_classifier.common.params import read_params
    from image_classifier.networks.backbones import build_feature_extractor
    from image_classifier.networks.tensorflow_setup import keras, tf
    from image_classifier.preparation.inference import build_function

    weights = "random" if backbone == "resnet50" else "imagenet"
    changes = {"backbone": backbone, "weights": weights}
    params = read_params(Path(project, "params.yaml")).model.model_copy(update=changes)
    keras.utils.set_random_seed(0)
    network = build_feature_extractor(params, IMAGE_SIZE, 3)
    folders = find_class_folders(Path(project, "data/raw")).values()
    paths = [path for folder in folders for path in find_files(folder)]
    count = COUNTS[backbone]
    paths = paths[:: max(1, len(paths) // count)][:count]
    pixels = np.concatenate(list(load_batches(paths, BATCH_SIZE, IMAGE_SIZE, "rgb")))
    if way == "prepare":
        extract_all = build_function(network)
    else:
        pixels = pixels.astype(np.float32)
        extract_all = partial(network.predict, batch_size=BATCH_SIZE, verbose=0)
    if "without tuning" in way:
        options = tf.data.Options()
        options.autotune.enabled = False
        pixels = tf.data.Dataset.from_tensor_slices(pixels).batch(BATCH_SIZE).with_options(options)
    extract_all(pixels)
    start = time.perf_counter()
    features = extract_all(pixels)
    seconds = time.perf_counter() - start
    np.save(target, features)
    print(json.dumps(len(features) / seconds))


if __name__ == "__main__":
    main()
