"""Write networks to `.keras` files of which identical ones have identical bytes."""

import io
import json
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np

from image_classifier.common.disk import enough_space, scratch_folder
from image_classifier.common.errors import InputError
from image_classifier.networks.tensorflow_setup import keras

FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
# Where `model.weights.h5` has the last layer of `classifier.build_model` on a frozen backbone.
LOGITS = "layers/sequential/layers/dense/vars"


def save_keras(network: keras.Model, path: Path, metadata: dict) -> None:
    """Write a network, with `metadata` added to its `metadata.json`, replacing `path` atomically.

    The date is left out, and the memory addresses by which Keras identifies shared objects are
    replaced by numbers from 0.

    Raises:
        InputError: if the disk has too little space; an existing file at `path` is kept.
    """
    # Space for both files, and for the weights that Keras temporarily writes beside the first one.
    size = 3 * sum(weight.nbytes for weight in network.get_weights())
    with scratch_folder(path.parent / ".saving") as scratch, enough_space(path, size):
        saved, rewritten = scratch / "saved.keras", scratch / "rewritten.keras"
        network.save(saved)
        members = _read(saved)
        saved_metadata = json.loads(members["metadata.json"])
        del saved_metadata["date_saved"]
        members["metadata.json"] = json.dumps(saved_metadata | metadata)
        members["config.json"] = _number_shared_objects(members["config.json"].decode())
        _write(members, rewritten)
        rewritten.replace(path)


def save_keras_classifier(
    source: Path, kernel: np.ndarray, bias: np.ndarray, path: Path, metadata: dict
) -> None:
    """As `save_keras`, for the network in `source`, with other weights of its last layer.

    `source` was written by `save_keras` and has a frozen backbone below `LOGITS`, float32
    (d, class_count) and (class_count,).

    Raises:
        InputError: as `save_keras`, and if `source` is damaged.
    """
    try:
        members = _read(source)
    except zipfile.BadZipFile as error:
        raise InputError(f"{source} is damaged: {error}; `dvc exp run` creates it again") from None
    members["metadata.json"] = json.dumps(json.loads(members["metadata.json"]) | metadata)
    content = io.BytesIO(members["model.weights.h5"])
    with h5py.File(content, "r+") as weights:
        for number, array in enumerate((kernel, bias)):
            weights[f"{LOGITS}/{number}"][...] = array
    members["model.weights.h5"] = content.getbuffer()
    with (
        scratch_folder(path.parent / ".saving") as scratch,
        enough_space(path, source.stat().st_size),
    ):
        _write(members, scratch / "rewritten.keras")
        (scratch / "rewritten.keras").replace(path)


def _read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(members: dict[str, bytes | memoryview | str], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, FIRST_ZIP_DATE), content)


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}
    return re.sub(
        r'(?<="shared_object_id": )\d+',
        lambda address: str(numbers.setdefault(address[0], len(numbers))),
        config,
    )
