"""The model file: one network from pixels to probabilities, with its class names inside."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import h5py

from image_classifier.common.disk import enough_space, scratch_folder
from image_classifier.common.errors import InputError
from image_classifier.common.images import PILLOW_MODES
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.outputs.metadata import TrainedOn, read_metadata

MODEL_FILE = Path("models/model.keras")
FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class TrainedModel(NamedTuple):
    """The content of a model file."""

    network: keras.Model  # `classifier.Networks.model`
    class_names: list[str]  # in the order of its outputs
    trained_on: TrainedOn


def save_model(
    model: keras.Model, class_names: list[str], trained_on: TrainedOn, path: Path
) -> None:
    """Write a `.keras` file that includes `metadata.Metadata`, replacing `path` atomically.

    Identical trainings give identical bytes: the date is left out, and the memory addresses by
    which Keras identifies shared objects are replaced by numbers from 0.

    Raises:
        InputError: if the disk has too little space; an existing file at `path` is kept.
    """
    # Space for both files, and for the weights that Keras temporarily writes beside the first one.
    size = 3 * sum(weight.nbytes for weight in model.get_weights())
    with scratch_folder(path.parent / ".saving") as scratch, enough_space(path, size):
        saved, rewritten = scratch / "saved.keras", scratch / "rewritten.keras"
        model.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(rewritten, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "metadata.json":
                    metadata = json.loads(content)
                    del metadata["date_saved"]
                    metadata |= {"class_names": class_names, "trained_on": trained_on._asdict()}
                    content = json.dumps(metadata)
                elif name == "config.json":
                    content = _number_shared_objects(content.decode())
                target.writestr(zipfile.ZipInfo(name, FIRST_ZIP_DATE), content)
        rewritten.replace(path)


def load_model(path: Path) -> TrainedModel:
    """Read the network, its class names, and its training record.

    Loading executes no code that the file contains or names: `model_contents` refuses such files,
    and Keras' safe mode is on.

    Raises:
        InputError: if there is no such file, or it was not written by `save_model`.
    """
    class_names, trained_on = read_metadata(path)
    try:
        _check_arrays(path)
        network = keras.models.load_model(path, compile=False)
        channels = len(PILLOW_MODES[trained_on.color_mode])
    except Exception as error:  # Keras and HDF5 raise nearly anything on a damaged file
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    expected = (None, trained_on.image_size, trained_on.image_size, channels), len(class_names)
    if (network.input_shape, network.output_shape[-1]) != expected:
        raise InputError(f"{path} is damaged: its network does not match its metadata")
    return TrainedModel(network, class_names, trained_on)


def _check_arrays(path: Path) -> None:
    """Check that the weights take no more memory than the file has bytes.

    HDF5 can declare an array of any size without storing it, and Keras would allocate it.
    """
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    sizes: list[int] = []
    with h5py.File(content) as weights:
        weights.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
    if sum(sizes) > path.stat().st_size:
        raise ValueError(f"its weights would take {sum(sizes):,} bytes, more than the file has")


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}
    return re.sub(
        r'(?<="shared_object_id": )\d+',
        lambda address: str(numbers.setdefault(address[0], len(numbers))),
        config,
    )
