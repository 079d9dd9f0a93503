"""13. On a GPU: prepare, whole experiments and training, each against plain Keras.

python benchmarks/gpu.py /path/to/cats_and_dogs_filtered.zip
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import end_to_end
import numpy as np
from end_to_end import link_training_photos
from measure import make_project, read_arguments, run, table, temporary_folder, write_section

from experiments import EPOCHS, TUTORIAL
from image_classifier.common.params import Params

BACKBONES = ("efficientnet_lite0", "resnet50")
WAYS = ("predict", "prepare", "prepare on the CPU")
COMPARED = 64  # photos whose features are compared
LEAST_PHOTOS = 6000  # they are repeated if there are fewer
VIEWS = 5
PASSES = 2
PREDICT_BATCH_SIZE = 256
NO_GPU = "-1"  # a value of CUDA_VISIBLE_DEVICES


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1] in WAYS:
        print(json.dumps(extract(sys.argv[1])))
        return
    arguments = read_arguments(__doc__.splitlines()[0], rounds=None)
    if not has_gpu():
        sys.exit("error: TensorFlow finds no GPU; this benchmark needs one")
    start = time.perf_counter()
    with temporary_folder() as folder:
        project = make_project(
            folder / "project",
            "cats_and_dogs_resnet50",
            arguments.photos,
            model__weights="random",
            prepare__views=EPOCHS,
        )
        experiments = measure_experiments(project)
        rates = measure_rates(project)
        training = measure_training(arguments.photos, folder)
    write_section(
        "13. On a GPU",
        [
            *table(["images a second", *BACKBONES], rates),
            "",
            "Photos from JPEGs to features. *predict* is `keras.utils.image_dataset_from_directory`"
            f" with batches of {PREDICT_BATCH_SIZE} and prefetch, and `keras.Model.predict`; with "
            f"{VIEWS} views each augmented copy counts as an image. The last line is the largest "
            "difference, relative to the largest feature, which TF32 explains. The weights are "
            f"random. Means of {PASSES} passes after a first one; ratios to *predict* in brackets.",
            "",
            *table(["", "seconds", "ratio"], experiments),
            "",
            f"*Network in every epoch* is [tutorial.py](tutorial.py) with {EPOCHS} epochs of "
            "ResNet50, measured in full with its start. The experiments are the command "
            f"`dvc exp run` with resnet50 and {EPOCHS} views, as in section 1. Measured once.",
            "",
            *table(["", "seconds per epoch", "ratio"], training),
            "",
            "As in section 5; measured once.",
            "",
            f"The whole benchmark took {time.perf_counter() - start:.0f} s. "
            "XLA is not used: it needs files of one version of CUDA, which may be missing.",
        ],
    )


def has_gpu() -> bool:
    """Whether TensorFlow finds a GPU; asked in another process, which leaves its memory free."""
    script = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    return run([sys.executable, "-c", script], Path.cwd()).output.split()[-1] != "0"


def measure_experiments(project: Path) -> list[list[str]]:
    """Compare the first and the next experiment with the tutorial's way."""
    first = run(["dvc", "exp", "run"], project).seconds
    print(f"first experiment: {first:.1f} s", flush=True)
    command = [sys.executable, str(TUTORIAL), str(project / "data/raw"), "--without-xla"]
    tutorial = run([*command, "--epochs", str(EPOCHS)], project).seconds
    print(f"network in every epoch: {tutorial:.1f} s", flush=True)
    following = run(["dvc", "exp", "run", "-S", "train.learning_rate=0.0011"], project).seconds
    print(f"next experiment: {following:.1f} s", flush=True)
    seconds = {
        "network in every epoch": tutorial,
        "the first experiment": first,
        "the next experiment": following,
    }
    return [[name, f"{value:.1f}", f"{value / tutorial:.2f}"] for name, value in seconds.items()]


def measure_rates(project: Path) -> list[list[str]]:
    """Compare the ways to compute features, and return rows with a column for each backbone."""
    results = {}
    for way in WAYS:
        hidden = {"CUDA_VISIBLE_DEVICES": NO_GPU} if way == "prepare on the CPU" else {}
        command = [sys.executable, str(Path(__file__).resolve()), way]
        output = run(command, project, TF_CPP_MIN_LOG_LEVEL="3", **hidden).output
        results[way] = json.loads(output.splitlines()[-1])
        print(f"{way}: {results[way]}", flush=True)
    reference = results["predict"]
    rows = [["predict", *(f"{reference[name]['1']:,.0f}" for name in BACKBONES)]]
    for views in ("1", str(VIEWS)):
        rates = [(results["prepare"][name][views], reference[name]["1"]) for name in BACKBONES]
        title = f"prepare, {views} view{'s' if views != '1' else ''}"
        rows.append([title, *(f"{rate:,.0f} ({rate / other:.2f})" for rate, other in rates)])
    differences = []
    for name in BACKBONES:
        on_gpu, on_cpu = (np.load(project / f"{name} {way}.npy") for way in WAYS[1:])
        differences.append(f"{np.abs(on_gpu - on_cpu).max() / np.abs(on_cpu).max():.1g}")
    return [*rows, ["difference of GPU and CPU", *differences]]


def measure_training(photos: Path, folder: Path) -> list[list[str]]:
    """Compare the ways to train from pixels."""
    rows = []
    script = [sys.executable, str(Path(end_to_end.__file__).resolve())]
    for number, (name, changes) in enumerate(end_to_end.NETWORKS.items()):
        project = make_project(folder / str(number), "cats_and_dogs", photos, **changes)
        run(["dvc", "repro", "prepare"], project)
        link_training_photos(project)
        seconds = [
            json.loads(run([*script, way], project).output.splitlines()[-1])
            for way in end_to_end.WAYS
        ]
        for value, text in zip(seconds, ("Keras with .cache()", "this pipeline"), strict=True):
            rows.append([f"{name}, {text}", f"{value:.2f}", f"{value / seconds[0]:.2f}"])
            print(rows[-1], flush=True)
    return rows


def extract(way: str) -> dict[str, dict[str, float]]:
    """Compute features of the current project's photos one way.

    Returns:
        Backbone -> number of views, as text -> images a second.
    """
    if way == "predict":
        import tensorflow  # noqa: F401  (first, without this repository's settings)
    from image_classifier.common.class_folders import find_class_folders, find_files
    from image_classifier.common.params import read_params
    from image_classifier.preparation.features import compute_features

    params = read_params()
    folders = find_class_folders(Path("data/raw")).values()
    paths = [str(path) for folder in folders for path in find_files(folder)]
    repeats = -(-LEAST_PHOTOS // len(paths))
    rates = {}
    for backbone in BACKBONES:
        model = params.model.model_copy(update={"backbone": backbone})
        prepare = params.prepare.model_copy(update={"views": VIEWS})
        changed = params.model_copy(update={"model": model, "prepare": prepare})
        if way == "predict":
            rates[backbone] = {"1": images_a_second(build_predict(changed, repeats))}
            continue

        def compute(split: str, locations: list[str], params: Params = changed) -> np.ndarray:
            parts = compute_features(params, split, None, locations, 0, os.cpu_count())
            return np.concatenate([part for _, part in parts], axis=1)

        np.save(f"{backbone} {way}.npy", compute("validation", paths[:COMPARED]))
        if way == "prepare":
            rates[backbone] = {
                views: images_a_second(partial(compute, split, repeats * paths))
                for views, split in (("1", "validation"), (str(VIEWS), "train"))  # augmented
            }
    return rates


def build_predict(params: Params, repeats: int) -> Callable[[], np.ndarray]:
    """Build a function that computes features of all photos of the current project with Keras."""
    import keras
    import tensorflow as tf

    from image_classifier.networks.backbones import build_feature_extractor

    size = params.prepare.image_size
    photos = keras.utils.image_dataset_from_directory(
        "data/raw",
        labels=None,
        image_size=(size, size),
        batch_size=PREDICT_BATCH_SIZE,
        verbose=False,
    )
    network = build_feature_extractor(params.model, size, 3)
    network.compile(jit_compile=False)
    photos = photos.repeat(repeats).prefetch(tf.data.AUTOTUNE)
    return lambda: network.predict(photos, verbose=0)[np.newaxis]


def images_a_second(compute: Callable[[], np.ndarray]) -> float:
    """Compute features, (views, n, d), several times; the first pass is not counted."""
    rates = []
    for _ in range(1 + PASSES):
        start = time.perf_counter()
        views, images, _ = compute().shape
        rates.append(views * images / (time.perf_counter() - start))
    return median(rates[1:])


if __name__ == "__main__":
    main()
