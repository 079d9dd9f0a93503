"""Typed parameters: what `params.yaml` may say, checked before anything slow is imported."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_classifier.errors import InputError

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

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A section of `params.yaml`: every key is required, none is added, no type is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


class DownloadParams(Section):
    dataset: Literal["digits", "cats_and_dogs", "fashion_mnist", "image_folder"]
    source: Annotated[str, Field(min_length=1)] | None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class PrepareParams(Section):
    image_size: Annotated[int, Field(ge=8, le=4096)]
    color_mode: Literal["rgb", "grayscale"]
    views: PositiveInt
    horizontal_flip: bool
    rotation: Annotated[float, Field(ge=0, le=0.5)]
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Seed

    @property
    def augments(self) -> bool:
        """Whether training pictures are changed at random."""
        return self.horizontal_flip or self.rotation > 0


class ModelParams(Section):
    backbone: str
    weights: Annotated[str, Field(min_length=1)]
    fine_tune_layers: Count
    conv1_filters: PositiveInt
    conv2_filters: PositiveInt
    dense_units: PositiveInt

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MINIMUM_SIZE:
            raise ValueError(_did_you_mean(name, MINIMUM_SIZE))
        return name

    @property
    def frozen(self) -> bool:
        """Whether no weight of the backbone is trained: then its features are computed once."""
        return self.backbone != "cnn" and self.fine_tune_layers == 0


class TrainParams(Section):
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    batch_size: PositiveInt
    epochs: PositiveInt
    stop_after: PositiveInt | None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    log_images: Count


class EvaluateParams(Section):
    calibration_bins: PositiveInt
    log_images: Count
    check_images: PositiveInt


class Params(Section):
    """The whole of `params.yaml`; `Section`s in the order in which the pipeline reads them."""

    download: DownloadParams
    prepare: PrepareParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams

    def contradictions(self) -> list[str]:
        """Pairs of values that are allowed alone and not together, a line each."""
        download, prepare, model, train = self.download, self.prepare, self.model, self.train
        smallest = MINIMUM_SIZE[model.backbone]
        found = {
            "download.source: found null; image_folder needs a folder, an archive or a URL": (
                download.dataset == "image_folder" and download.source is None
            ),
            "download.source: found a value; digits come with scikit-learn, allowed: null": (
                download.dataset == "digits" and download.source is not None
            ),
            "download.sha256: found a value; it checks the archive named by download.source": (
                download.sha256 is not None and download.source is None
            ),
            f"prepare.image_size: found {prepare.image_size}; "
            f"{model.backbone} takes {smallest} pixels or more": prepare.image_size < smallest,
            f"prepare.color_mode: found 'grayscale'; {model.backbone} takes 'rgb'": (
                model.backbone != "cnn" and prepare.color_mode != "rgb"
            ),
            f"prepare.views: found {prepare.views}; "
            f"train.epochs is {train.epochs}, and an epoch uses one view": (
                model.frozen and prepare.views > train.epochs
            ),
            f"prepare.views: found {prepare.views}; without horizontal_flip and rotation "
            "all views are the same, allowed: 1": (
                model.frozen and prepare.views > 1 and not prepare.augments
            ),
            f"train.stop_after: found {train.stop_after}; train.epochs is {train.epochs}": (
                (train.stop_after or 0) > train.epochs
            ),
            "prepare.validation_fraction + prepare.test_fraction: "
            "found 1 or more; pictures must be left to train on": (
                prepare.validation_fraction + prepare.test_fraction >= 1
            ),
        }
        return [message for message, contradicts in found.items() if contradicts]


def read_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check `params.yaml`.

    It is read with ruamel.yaml because DVC reads it so: `1e-3` is a number to both, while YAML 1.1
    readers (PyYAML) take it for text.

    Raises:
        InputError: with one line for each thing wrong in the file.
    """
    params = read_section(path, Params)
    if reasons := params.contradictions():
        raise refusal(path, reasons)
    return params


def read_section(path: Path, section: type[AnySection]) -> AnySection:
    """Read a YAML file that has the keys of `section`.

    Raises:
        InputError: with one line for each thing wrong in the file.
    """
    try:
        values = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found in {Path.cwd()}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise refusal(path, explain(error, section)) from None


def refusal(path: Path, reasons: Sequence[str]) -> InputError:
    """The error that tells what is wrong in a file, a line for each of the `reasons`."""
    return InputError("\n       ".join(f"{path}: {reason}" for reason in reasons))


def explain(error: ValidationError, section: type[Section]) -> list[str]:
    """A line for each thing that pydantic found wrong with the values of `section`."""
    return [_explain(details, section) for details in error.errors()]


def _explain(details: dict, root: type[Section]) -> str:
    *sections, key = details["loc"] or ("the file",)
    name = ".".join(map(str, details["loc"])) or "the file"
    if details["type"] == "missing":
        return f"{name}: missing"
    if details["type"] == "extra_forbidden":
        section = root.model_fields[sections[0]].annotation if sections else root
        return f"{name}: {_did_you_mean(key, section.model_fields)}"
    if details["type"] == "model_type":
        return f"{name}: found {details['input']!r}; allowed: a section of key: value lines"
    reason = details["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{name}: found {details['input']!r}; {reason}"


def _did_you_mean(name: object, allowed: object) -> str:
    """Say that `name` is unknown, with the nearest of the `allowed` names, or all of them."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1)
    return (
        f"unknown; did you mean {near[0]!r}?" if near else f"unknown; allowed: {', '.join(allowed)}"
    )
