"""The model file: one network from pixels to probabilities, with its class names inside."""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.common.images import PILLOW_MODES
from image_classifier.computing.prepared_network import KERAS_NETWORK
from image_classifier.networks.keras_file import save_keras, save_keras_classifier
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.outputs.metadata import Metadata, TrainedOn, read_metadata

MODEL_FILE = Path("models/model.keras")


class TrainedModel(NamedTuple):
    """The content of a model file."""

    network: keras.Model  # `classifier.Networks.model`
    class_names: list[str]  # in the order of its outputs
    trained_on: TrainedOn


def save_model(model: keras.Model, metadata: Metadata, path: Path) -> None:
    """Write a `.keras` file that includes `metadata`, replacing `path` atomically.

    Identical trainings give identical bytes.

    Raises:
        InputError: if the disk has too little space; an existing file at `path` is kept.
    """
    save_keras(model, path, metadata.as_json())


def save_classifier(kernel: np.ndarray, bias: np.ndarray, metadata: Metadata, path: Path) -> None:
    """As `save_model`, for the prepared network with this last layer.

    Its weights are float32 (d, class_count) and (class_count,).

    Raises:
        InputError: as `save_model`, and if the prepared network is damaged.
    """
    save_keras_classifier(KERAS_NETWORK, kernel, bias, path, metadata.as_json())


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
