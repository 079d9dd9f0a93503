"""Heat maps of the regions of an image that support its predicted class."""

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from image_classifier.common.images import load_for_display
from image_classifier.networks.tensorflow_setup import keras, tf

LONGER_SIDE = 320  # of an image beside its heat map, in pixels
MARGIN = 8
OPACITY = 0.65  # of the hottest region
COLORS = matplotlib.colormaps["turbo"]
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def build_explainer(network: keras.Model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Build a function from pixels to probabilities and heat maps, with one backbone pass.

    The network must come from `classifier.build_networks`. The method is HiResCAM (Draelos and
    Carin, https://arxiv.org/abs/2011.08891). With A the last feature map, of k channels, and y the
    logit of the predicted class, the heat at position i, j is

        ReLU(sum over k of A[i, j, k] * dy/dA[i, j, k])

    After every backbone follow average pooling and one dense layer. The gradient is then the same
    at all positions, and the result is Grad-CAM (Selvaraju et al.,
    https://arxiv.org/abs/1610.02391, equations 1 and 2) up to a factor. After the flattened map of
    `cnn`, Grad-CAM would average gradients that differ between positions. On Fashion-MNIST,
    blackening the hottest tenth of an image by Grad-CAM lowers the logit by 0.56, a random tenth
    by 0.42, and the hottest tenth by HiResCAM by 0.92.

    Returns:
        A function from uint8 (n, image_size, image_size, channels) to probabilities, float32
        (n, class_count), and heat, float32 (n, image_size, image_size), 0 or more.
    """
    extractor, classifier = network.get_layer("feature_extractor"), network.get_layer("classifier")
    pooling = extractor.layers[-1]  # flattening after `cnn`
    feature_maps = keras.Model(extractor.input, pooling.input)
    softmax = network.get_layer("probabilities")
    enlarge = _enlarging(feature_maps.output_shape[1], feature_maps.input_shape[1])

    @tf.function(input_signature=[tf.TensorSpec(network.input_shape, tf.uint8)])
    def explain(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        activations = feature_maps(tf.cast(pixels, tf.float32), training=False)
        with tf.GradientTape() as tape:
            tape.watch(activations)
            logits = classifier(pooling(activations), training=False)
            predicted = tf.reduce_max(logits, axis=1)
        gradients = tape.gradient(predicted, activations)
        heat = tf.nn.relu(tf.reduce_sum(activations * gradients, axis=-1))
        return softmax(logits), enlarge @ heat @ tf.transpose(enlarge)

    return lambda pixels: tuple(output.numpy() for output in explain(pixels))


def _enlarging(cells: int, pixels: int) -> np.ndarray:
    """Weights, float32 (pixels, cells), that interpolate linearly from cells to pixels.

    Each stride of a network halves the map, so the width of a cell is a power of two in pixels. If
    the size of the map was rounded down, no cell covers the last pixels: EfficientNet-Lite0 at 180
    pixels has 5 cells of 32 pixels, 160 in total. Stretching the cells over all pixels would shift
    the heat: hiding the hottest tenth of cats and dogs then lowered the logit by 1.22 rather than
    1.34. (The Inception networks lose pixels on all sides; their heat is shifted up and left by up
    to 21 of 299 pixels.)
    """
    cell = 2 ** round(math.log2(pixels / cells))
    if cell * cells > pixels:
        cell = pixels / cells
    positions = (np.arange(pixels) + 0.5) / cell - 0.5
    weights = [np.interp(positions, np.arange(cells), row) for row in np.eye(cells)]
    return np.stack(weights, axis=1).astype(np.float32)


def draw_explanation(path: Path, heat: np.ndarray, caption: str) -> Image.Image:
    """Place an image next to a copy under its heat map, with a caption above.

    The heat is float32 (image_size, image_size), 0 or more; its maximum gets the hottest colour.

    Raises:
        InputError: if the image can no longer be decoded.
    """
    image = load_for_display(path, LONGER_SIDE)
    heat = Image.fromarray(heat / max(heat.max(), np.finfo(np.float32).tiny))
    heat = np.asarray(heat.resize(image.size, Image.Resampling.BILINEAR))
    colors = Image.fromarray(COLORS(heat, bytes=True)).convert("RGB")
    opacity = Image.fromarray((heat * OPACITY * 255).astype(np.uint8))
    heated = Image.composite(colors, image, opacity)

    font = ImageFont.truetype(FONT, 16)
    top = sum(font.getmetrics()) + MARGIN
    width = max(2 * image.width + MARGIN, round(font.getlength(caption)) + 2 * MARGIN)
    sheet = Image.new("RGB", (width, top + image.height), "white")
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN // 2), caption, "black", font)
    sheet.paste(image, (0, top))
    sheet.paste(heated, (image.width + MARGIN, top))
    return sheet
