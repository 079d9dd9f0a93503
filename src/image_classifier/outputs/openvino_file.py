"""The model file for deployment: the network of the model file, translated to OpenVINO.

It loads without TensorFlow, in a fraction of a second.
"""

import json
from pathlib import Path
from typing import NamedTuple

from image_classifier.common.disk import enough_space, replace_folder, scratch_folder
from image_classifier.common.errors import InputError
from image_classifier.common.images import PILLOW_MODES
from image_classifier.computing.openvino_model import (
    openvino,
    read_model,
    shape_of,
    size_of,
    write_model,
)
from image_classifier.outputs.metadata import Metadata, TrainedOn, check_metadata

OPENVINO_FILE = Path("models/openvino/model.xml")  # the structure; the weights are in model.bin
METADATA = ["image_classifier", "metadata"]  # place in the file


class TranslatedModel(NamedTuple):
    """The content of the file."""

    network: openvino.Model  # from pixels to probabilities and features
    class_names: list[str]  # in the order of the probabilities
    trained_on: TrainedOn


def save_translated(model: openvino.Model, metadata: Metadata, path: Path) -> None:
    """Write a translated network with its metadata, replacing the folder of `path`.

    Identical trainings give identical bytes.

    Raises:
        InputError: if the disk has too little space; the existing files are kept.
    """
    model.set_rt_info(json.dumps(metadata.as_json()), METADATA)
    folder = path.parent
    with scratch_folder(folder.parent / ".saving") as scratch:
        with enough_space(folder, size_of(model)):
            write_model(model, scratch / folder.name / path.name)
        replace_folder(scratch / folder.name, folder)


def load_translated(path: Path) -> TranslatedModel:
    """Read the network, its class names, and its training record.

    Raises:
        InputError: if there is no such file, or it was not written by `save_translated`.
    """
    model = read_model(path)
    try:
        metadata = json.loads(model.get_rt_info(METADATA).astype(str))
    except (RuntimeError, ValueError):
        raise InputError(f"{path} is not a model of this repository") from None
    class_names, trained_on = check_metadata(metadata, path)
    size = trained_on.image_size
    try:
        channels = len(PILLOW_MODES[trained_on.color_mode])
        shapes = shape_of(model.input("pixels")), shape_of(model.output("probabilities"))
        model.output("features")
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged: {reason}") from None
    if shapes != ((None, size, size, channels), (None, len(class_names))):
        raise InputError(f"{path} is damaged: its network does not match its metadata")
    return TranslatedModel(model, class_names, trained_on)
