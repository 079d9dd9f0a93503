"""A training without the stages before it, and without an epoch: its classifier is random."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from helpers.images import noisy_image
from helpers.made_prepared import write_prepared
from image_classifier.common.images import load_image
from image_classifier.common.params import Params
from image_classifier.common.raw_data import RAW_DATA
from image_classifier.computing.prepared import (
    PREPARED,
    SPLITS,
    ImageRecord,
    open_splits,
    records_of,
)
from image_classifier.preparation.features import build_network
from image_classifier.preparation.inference import build_function
from image_classifier.preparation.network import write_network
from image_classifier.training import steps

NAMES = ["cat", "dog", "eel"]
PER_SPLIT = 6


def write_data(params: Params) -> None:
    """Write images and data/prepared of them below the current folder."""
    records, arrays = [], {}
    for number in range(PER_SPLIT * len(SPLITS)):
        name = NAMES[number % len(NAMES)]
        path = RAW_DATA / name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of coarse noise: the mean of fine noise is the same in each image.
        noisy_image(number, (4, 4)).resize((40, 30)).save(path)
        split = SPLITS[number // PER_SPLIT]
        records.append(ImageRecord(f"{name}/{path.name}", name, split, f"{number:064}"))
    for split in SPLITS:
        arrays[split] = pixels_of(params, split, records)[np.newaxis]
        if params.model.frozen:
            arrays[split] = build_function(build_network(params))(arrays[split][0])[np.newaxis]
    write_prepared(records, arrays)
    if params.model.frozen:
        paths = paths_of("validation", records)
        write_network(params, len(NAMES), [str(path) for path in paths], PREPARED)


def paths_of(split: str, records: list[ImageRecord]) -> list[Path]:
    return [RAW_DATA / record.path for record in records_of(records, split)]


def pixels_of(params: Params, split: str, records: list[ImageRecord]) -> np.ndarray:
    """Pixels of a split, uint8 (n, image_size, image_size, channels)."""
    size, color_mode = params.prepare.image_size, params.prepare.color_mode
    return np.stack([load_image(path, size, color_mode) for path in paths_of(split, records)])


def build_training(params: Params) -> steps.Training:
    """A training of the data in the current folder, with a classifier that is sure of itself."""
    class_names, (train, validation) = open_splits("train", "validation")
    training = steps.build(params, class_names, train, validation)
    logits = training.network.get_layer("classifier").layers[-1]
    kernel, bias = logits.get_weights()
    kernel = np.random.default_rng(0).normal(size=kernel.shape)
    logits.set_weights([kernel, bias])
    found = training.network(train.views[0, :], training=False).numpy()
    scale = 2 / found.std(axis=0)
    logits.set_weights([kernel * scale, -found.mean(axis=0) * scale])
    return training


def save(training: steps.Training) -> None:
    """Write both model files."""
    checkpoint = SimpleNamespace(best=0, epoch_logs=[{"val_accuracy": 0.5}])
    steps.save(training, checkpoint, steps.translate(training))
