"""Model files for tests."""

from pathlib import Path

from helpers.project import REPOSITORY
from image_classifier.common.params import AUGMENTATION, Params, read_params
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.outputs.metadata import TrainedOn
from image_classifier.outputs.model_file import save_model
from image_classifier.training.classifier import build_networks

CLASS_NAMES = ["cat", "dog", "a, strange/name ü"]
TRAINED_ON = TrainedOn(
    dataset="image_folder",
    training_pictures=1234,
    corrections=0,
    table_sha256="0" * 64,
    image_size=32,
    color_mode="rgb",
    augmentation={**dict.fromkeys(AUGMENTATION, 0.0), "horizontal_flip": True, "rotation": 0.2},
    backbone="mobilenet_v2",
    weights="random",
    fine_tune_layers=2,
    recipe={"optimizer": "adam", "learning_rate": 0.001, "early_stopping": None},
    epochs=5,
    best_epoch=4,
    validation_accuracy=0.75,
)


def save_network(path: Path, class_names: list[str] = CLASS_NAMES, **model: object) -> keras.Model:
    """Save an untrained network for three classes."""
    network = build_networks(params_with(**model), class_count=3).model
    save_model(network, class_names, TRAINED_ON, path)
    return network


def params_with(image_size: int = 32, **model: object) -> Params:
    """The default parameters with another image size, RGB images and another model."""
    params = read_params(REPOSITORY / "params.yaml").model_dump()
    params["prepare"].update(
        image_size=image_size, color_mode="rgb", horizontal_flip=True, rotation=0.2
    )
    params["model"].update(weights="random", **model)
    return Params.model_validate(params)
