"""Typed parameters: what `params.yaml` may say, checked before anything slow is imported."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError

from image_classifier.checked_yaml import Section, explain, read_yaml, refusal

PARAMS_FILE = Path("params.yaml")


class Backbone(NamedTuple):
    """A network of `keras.applications`, and the smallest picture it takes (in pixels)."""

    module: str  # that has its `preprocess_input`
    function: str
    minimum_size: int = 32


# https://keras.io/api/applications; the minimum sizes are those of `obtain_input_shape` there.
KERAS_APPLICATIONS = {
    "convnext_tiny": Backbone("convnext", "ConvNeXtTiny"),
    "convnext_small": Backbone("convnext", "ConvNeXtSmall"),
    "convnext_base": Backbone("convnext", "ConvNeXtBase"),
    "convnext_large": Backbone("convnext", "ConvNeXtLarge"),
    "convnext_xlarge": Backbone("convnext", "ConvNeXtXLarge"),
    "densenet121": Backbone("densenet", "DenseNet121"),
    "densenet169": Backbone("densenet", "DenseNet169"),
    "densenet201": Backbone("densenet", "DenseNet201"),
    "efficientnet_b0": Backbone("efficientnet", "EfficientNetB0"),
    "efficientnet_b1": Backbone("efficientnet", "EfficientNetB1"),
    "efficientnet_b2": Backbone("efficientnet", "EfficientNetB2"),
    "efficientnet_b3": Backbone("efficientnet", "EfficientNetB3"),
    "efficientnet_b4": Backbone("efficientnet", "EfficientNetB4"),
    "efficientnet_b5": Backbone("efficientnet", "EfficientNetB5"),
    "efficientnet_b6": Backbone("efficientnet", "EfficientNetB6"),
    "efficientnet_b7": Backbone("efficientnet", "EfficientNetB7"),
    "efficientnet_v2_b0": Backbone("efficientnet_v2", "EfficientNetV2B0"),
    "efficientnet_v2_b1": Backbone("efficientnet_v2", "EfficientNetV2B1"),
    "efficientnet_v2_b2": Backbone("efficientnet_v2", "EfficientNetV2B2"),
    "efficientnet_v2_b3": Backbone("efficientnet_v2", "EfficientNetV2B3"),
    "efficientnet_v2_s": Backbone("efficientnet_v2", "EfficientNetV2S"),
    "efficientnet_v2_m": Backbone("efficientnet_v2", "EfficientNetV2M"),
    "efficientnet_v2_l": Backbone("efficientnet_v2", "EfficientNetV2L"),
    "inception_resnet_v2": Backbone("inception_resnet_v2", "InceptionResNetV2", 75),
    "inception_v3": Backbone("inception_v3", "InceptionV3", 75),
    "mobilenet": Backbone("mobilenet", "MobileNet"),
    "mobilenet_v2": Backbone("mobilenet_v2", "MobileNetV2"),
    "mobilenet_v3_large": Backbone("mobilenet_v3", "MobileNetV3Large"),
    "mobilenet_v3_small": Backbone("mobilenet_v3", "MobileNetV3Small"),
    "nasnet_large": Backbone("nasnet", "NASNetLarge"),
    "nasnet_mobile": Backbone("nasnet", "NASNetMobile"),
    "resnet50": Backbone("resnet", "ResNet50"),
    "resnet101": Backbone("resnet", "ResNet101"),
    "resnet152": Backbone("resnet", "ResNet152"),
    "resnet50_v2": Backbone("resnet_v2", "ResNet50V2"),
    "resnet101_v2": Backbone("resnet_v2", "ResNet101V2"),
    "resnet152_v2": Backbone("resnet_v2", "ResNet152V2"),
    "vgg16": Backbone("vgg16", "VGG16"),
    "vgg19": Backbone("vgg19", "VGG19"),
    "xception": Backbone("xception", "Xception", 71),
}
MINIMUM_SIZE = {
    "cnn": 8,  # two 2x2 poolings must leave something
    "efficientnet_lite0": 32,
    **{name: backbone.minimum_size for name, backbone in KERAS_APPLICATIONS.items()},
}

BackboneName = Literal[tuple(MINIMUM_SIZE)]

PositiveInt = Annotated[int, Field(ge=1, le=1_000_000)]  # more is a slip of the keyboard
PictureCount = Annotated[int, Field(ge=0, le=1_000)]
Filters = Annotated[int, Field(ge=1, le=4_096)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
ONE_LINE = r"^[^\x00-\x1f]+$"
Source = Annotated[
    str,
    Field(pattern=ONE_LINE, description="a URL, an archive, a folder or a bucket"),
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="64 of 0 to 9 and a to f")]
Weights = Annotated[str, Field(pattern=ONE_LINE, description="imagenet, random or a weights file")]


class DownloadParams(Section):
    dataset: Literal["digits", "cats_and_dogs", "fashion_mnist", "image_folder"]
    source: Source | None
    sha256: Sha256 | None


class PrepareParams(Section):
    image_size: Annotated[int, Field(ge=8, le=4_096)]
    color_mode: Literal["rgb", "grayscale"]
    views: PositiveInt
    horizontal_flip: bool
    rotation: Annotated[float, Field(ge=0, le=0.5)]
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Seed
    engine: Literal["local", "ray"]

    @property
    def augments(self) -> bool:
        """Whether training pictures are changed at random."""
        return self.horizontal_flip or self.rotation > 0


class ModelParams(Section):
    backbone: BackboneName
    weights: Weights
    fine_tune_layers: Annotated[int, Field(ge=0, le=1_000)]
    conv1_filters: Filters
    conv2_filters: Filters
    dense_units: Annotated[int, Field(ge=1, le=16_384)]

    @property
    def frozen(self) -> bool:
        """Whether no weight of the backbone is trained: then its features are computed once."""
        return self.backbone != "cnn" and self.fine_tune_layers == 0

    @property
    def smallest(self) -> int:
        """Height and width of the smallest picture that the backbone takes, in pixels."""
        return MINIMUM_SIZE[self.backbone]


class TrainParams(Section):
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    batch_size: PositiveInt
    strategy: Literal["none", "mirrored", "multi_worker"]
    epochs: PositiveInt
    stop_after: PositiveInt | None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    log_images: PictureCount


class EvaluateParams(Section):
    calibration_bins: Annotated[int, Field(ge=1, le=1_000)]
    log_images: PictureCount
    check_images: PositiveInt


class Params(Section):
    """The whole of `params.yaml`; `Section`s in the order in which the pipeline reads them."""

    download: DownloadParams
    prepare: PrepareParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams


# Values that are allowed alone and not together: what is said of them, and when.
CONTRADICTIONS: dict[str, Callable[[Params], bool]] = {
    "download.source: found null; allowed with image_folder: a URL, an archive, a "
    "folder, a bucket or a list of URLs": (
        lambda p: p.download.dataset == "image_folder" and p.download.source is None
    ),
    "download.source: found {download.source!r}; digits come with scikit-learn, allowed: null": (
        lambda p: p.download.dataset == "digits" and p.download.source is not None
    ),
    "download.sha256: found {download.sha256!r}; it checks the archive named by download.source, "
    "which is null, allowed: null": lambda p: (
        p.download.sha256 is not None and p.download.source is None
    ),
    "prepare.image_size: found {prepare.image_size}; {model.backbone} takes {model.smallest} "
    "pixels or more": lambda p: p.prepare.image_size < p.model.smallest,
    "prepare.color_mode: found 'grayscale'; {model.backbone} takes rgb": lambda p: (
        p.model.backbone != "cnn" and p.prepare.color_mode == "grayscale"
    ),
    "prepare.views: found {prepare.views}; train.epochs is {train.epochs}, and an epoch uses one "
    "view, allowed: 1 to {train.epochs}": lambda p: (
        p.model.frozen and p.prepare.views > p.train.epochs
    ),
    "prepare.views: found {prepare.views}; without horizontal_flip and rotation all views are the "
    "same, allowed: 1": lambda p: p.model.frozen and p.prepare.views > 1 and not p.prepare.augments,
    "train.stop_after: found {train.stop_after}; train.epochs is {train.epochs}, allowed: "
    "1 to {train.epochs}, or null": lambda p: (p.train.stop_after or 0) > p.train.epochs,
    "train.strategy: found {train.strategy!r}; the features are those of a frozen backbone, and "
    "what is trained on them is too little to divide, allowed: none": lambda p: (
        p.model.frozen and p.train.strategy != "none"
    ),
    "prepare.validation_fraction + prepare.test_fraction: found 1 or more; allowed: below 1, "
    "so that pictures are left to train on": lambda p: (
        p.prepare.validation_fraction + p.prepare.test_fraction >= 1
    ),
}


def read_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check `params.yaml`.

    Raises:
        InputError: with one line for each thing wrong in the file.
    """
    values = read_yaml(path)
    if reasons := find_errors(values):
        raise refusal(path, reasons)
    return Params.model_validate(values)


def find_errors(values: object, varying: Iterable[tuple[str, str]] = ()) -> list[str]:
    """What is wrong with the values of a `params.yaml`, a line each.

    Values are said to contradict each other only where each of them is right alone.

    Args:
        values: of the whole file.
        varying: section and key of values that contradict nothing, as they take others in turn.
    """
    reasons = []
    left_out = set(varying)
    try:
        Params.model_validate(values)
    except ValidationError as error:
        reasons = explain(error, Params)
        left_out |= {details["loc"][:2] for details in error.errors(include_url=False)}
    sections = {}
    for name, field in Params.model_fields.items():
        section = values.get(name) if isinstance(values, dict) else None
        right = {
            key: section[key]
            for key in field.annotation.model_fields
            if isinstance(section, dict) and key in section and (name, key) not in left_out
        }
        sections[name] = field.annotation.model_construct(**right)
    params = Params.model_construct(**sections)
    for message, contradicts in CONTRADICTIONS.items():
        with suppress(AttributeError):  # one of the values is left out
            if contradicts(params):
                reasons.append(message.format(**sections))
    return reasons
