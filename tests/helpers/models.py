"""Model files for tests."""

from pathlib import Path

from helpers.project import REPOSITORY
from image_classifier.common.images import PILLOW_MODES
from image_classifier.common.params import AUGMENTATION, Params, read_params
from image_classifier.networks.backbones import build_feature_extractor
from image_classifier.networks.classifier import build_classifier, build_model
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.networks.translation import translate_model
from image_classifier.outputs.metadata import Metadata, TrainedOn
from image_classifier.outputs.openvino_file import save_translated
from image_classifier.training.model_file import save_model

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
    """Save an untrained network for three classes as a .keras file or, translated, as .xml."""
    network = whole_network(params_with(**model), class_count=3)
    save(network, Metadata(class_names, TRAINED_ON), path)
    return network


def save(network: keras.Model, metadata: Metadata, path: Path) -> None:
    """Save a network as a .keras file or, translated, as .xml."""
    if path.suffix == ".xml":
        save_translated(translate_model(network), metadata, path)
    else:
        save_model(network, metadata, path)


def whole_network(params: Params, class_count: int) -> keras.Model:
    """An untrained network from pixels to probabilities, also with a frozen backbone."""
    channels = len(PILLOW_MODES[params.prepare.color_mode])
    extractor = build_feature_extractor(params.model, params.prepare.image_size, channels)
    feature_count = extractor.output_shape[-1]
    return build_model(extractor, build_classifier(params.model, feature_count, class_count))


def params_with(image_size: int = 32, **model: object) -> Params:
    """The default parameters with another image size, RGB images and another model."""
    params = read_params(REPOSITORY / "params.yaml").model_dump()
    params["prepare"].update(
        image_size=image_size, color_mode="rgb", horizontal_flip=True, rotation=0.2
    )
    params["model"].update(weights="random", **model)
    return Params.model_validate(params)
