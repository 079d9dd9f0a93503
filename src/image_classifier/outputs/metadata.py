"""The metadata in a model file, read without TensorFlow."""

import hashlib
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from image_classifier.common.errors import InputError
from image_classifier.common.params import Params
from image_classifier.computing.corrections import applied_corrections
from image_classifier.outputs.model_contents import read_metadata_json

# Parameters in train.* that are recorded elsewhere, or that do not change the model.
NOT_IN_RECIPE = {"epochs", "stop_after", "strategy", "log_images"}


class TrainedOn(NamedTuple):
    """The origin of a model, identical for identical trainings at any place and time.

    So it contains no date and no path: the images are identified by the hash of their table, not
    by `download.source`, and a weights file by its name.
    """

    dataset: str  # from params.yaml, like all fields without a comment
    training_pictures: int  # number of images of the training split
    corrections: int  # number of rows of data/prepared/corrections.csv; 0 without that file
    table_sha256: str  # of data/prepared/images.csv, which has the SHA-256 of each image
    image_size: int
    color_mode: str
    augmentation: dict[str, bool | float]  # of params.yaml's section prepare, by name
    backbone: str
    weights: str
    fine_tune_layers: int
    recipe: dict[str, str | int | float | None]  # the parameters in train.* that change the model
    epochs: int
    best_epoch: int  # the epoch whose weights were kept, counted from 1
    validation_accuracy: float  # top-1, after that epoch


class Metadata(NamedTuple):
    """What both model files contain besides the network."""

    class_names: list[str]  # in the order of the model's outputs
    trained_on: TrainedOn

    def as_json(self) -> dict:
        """The entries as JSON has them; see `check_metadata`."""
        return {"class_names": self.class_names, "trained_on": self.trained_on._asdict()}

    def summary(self) -> str:
        """Describe the model in one line."""
        on = self.trained_on
        classes = textwrap.shorten(", ".join(self.class_names), 60, placeholder=" ...")
        corrected = f"; corrections of labels: {on.corrections:,}" if on.corrections else ""
        tuned = f", top {on.fine_tune_layers} layers fine-tuned" if on.fine_tune_layers else ""
        return (
            f"trained on {on.training_pictures:,} images of {on.dataset} "
            f"({len(self.class_names)} classes: {classes}{corrected}) "
            f"at {on.image_size}x{on.image_size}, {on.color_mode}; "
            f"{on.backbone} from {on.weights} weights{tuned}, "
            f"epoch {on.best_epoch} of {on.epochs}, "
            f"validation accuracy {on.validation_accuracy:.3f}"
        )


def describe_training(
    params: Params, table: Path, training_pictures: int, best_epoch: int, validation_accuracy: float
) -> TrainedOn:
    """The training record for the model file; `table` is data/prepared/images.csv.

    The applied corrections are read beside it.
    """
    from_scratch = params.model.backbone == "cnn"
    return TrainedOn(
        dataset=params.download.dataset,
        training_pictures=training_pictures,
        corrections=len(applied_corrections(table.parent)),
        table_sha256=hashlib.sha256(table.read_bytes()).hexdigest(),
        image_size=params.prepare.image_size,
        color_mode=params.prepare.color_mode,
        augmentation=params.prepare.augmentation,
        backbone=params.model.backbone,
        weights="random" if from_scratch else Path(params.model.weights).name,
        fine_tune_layers=0 if from_scratch else params.model.fine_tune_layers,
        recipe=params.train.model_dump(exclude=NOT_IN_RECIPE),
        epochs=params.train.epochs,
        best_epoch=best_epoch,
        validation_accuracy=round(validation_accuracy, 6),
    )


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a model file.

    Raises:
        InputError: if there is no such file, or it was not written by `model_file.save_model`.
    """
    try:
        metadata = read_metadata_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found; `dvc exp run` or src/train.py creates it") from None
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} is not a model of this repository: {error}") from None
    return check_metadata(metadata, path)


def check_metadata(metadata: dict, path: Path) -> Metadata:
    """The metadata of a model file, from JSON.

    Raises:
        InputError: if an entry is missing or has the wrong type; names `path`.
    """
    try:
        known = {name: metadata.get(name) for name in Metadata._fields}
        return TypeAdapter(Metadata).validate_python(known, strict=True)
    except ValidationError:
        raise InputError(
            f"{path} is not a model of this repository, or was saved by an old version: its "
            "metadata is incomplete; train it again"
        ) from None
