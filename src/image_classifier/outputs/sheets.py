"""Sheets of predictions: images with their predicted and true classes."""

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from image_classifier.common.images import load_image
from image_classifier.common.raw_data import locate
from image_classifier.computing.prepared import ImageRecord

# DVC's extension shows a sheet 350 pixels wide: of three columns, text is then 10 pixels high.
COLUMNS = 3
IMAGE_SIZE = 160  # pixels, like the lengths below
MARGIN = 8
FRAME = 4
TEXT_SIZE = 17
LINE_HEIGHT = 21
TITLE_HEIGHT = 44
CELL_WIDTH = IMAGE_SIZE + 2 * (FRAME + MARGIN)
CELL_HEIGHT = IMAGE_SIZE + 2 * (FRAME + MARGIN) + 2 * LINE_HEIGHT
RIGHT, WRONG, INK, PAPER = "#1b7837", "#b2182b", "#222222", "#ffffff"


def worst_first(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Row numbers, int64 (n,): mistakes first, the most confident at the top.

    `labels` are int64 (n,), `probabilities` float32 (n, class_count). Rows are sorted in ascending
    order of the probability of the true class minus the highest probability of another class.
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    return np.argsort(probabilities[rows, labels] - others.max(axis=1), kind="stable")


def load_images(root: Path, records: Sequence[ImageRecord]) -> list[Image.Image]:
    """Decode images below `root`, scaled to a square as for the network.

    Raises:
        InputError: if an image cannot be decoded; names the file.
    """
    images = [load_image(locate(root, record.path), IMAGE_SIZE, "rgb") for record in records]
    return [Image.fromarray(image) for image in images]


def prediction_sheet(
    images: Sequence[Image.Image],
    true_names: Sequence[str],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    places: int = 0,
) -> Image.Image:
    """Draw images of `load_images`, each with its predicted class, confidence and true class.

    `probabilities` are float32 (len(images), class_count). The sheet has room for `places` images,
    or for all `images` if there are more; it is filled from the top left. Takes a few milliseconds,
    so it can run after each epoch.
    """
    places = max(places, len(images))
    # More columns for many images: a JPEG is at most 65,535 pixels high.
    columns = max(COLUMNS, math.isqrt(places))
    size = (columns * CELL_WIDTH, TITLE_HEIGHT + -(-places // columns) * CELL_HEIGHT)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    title = _fitting(title, size[0])
    draw.text((size[0] / 2, TITLE_HEIGHT / 2), title, INK, font(TEXT_SIZE), anchor="mm")
    for position, (image, true_name, outputs) in enumerate(
        zip(images, true_names, probabilities, strict=True)
    ):
        row, column = divmod(position, columns)
        left, top = column * CELL_WIDTH + MARGIN, TITLE_HEIGHT + row * CELL_HEIGHT
        predicted = class_names[outputs.argmax()]
        color = RIGHT if predicted == true_name else WRONG
        framed = ImageOps.expand(image, FRAME, color)
        sheet.paste(framed, (left, top))
        middle, line = left + framed.width / 2, top + framed.height + LINE_HEIGHT / 2 + 2
        text = _fitting(predicted, CELL_WIDTH, f" ({outputs.max():.1%})")
        draw.text((middle, line), text, color, font(TEXT_SIZE), anchor="mm")
        text = _fitting(f"true: {true_name}", CELL_WIDTH)
        draw.text((middle, line + LINE_HEIGHT), text, INK, font(TEXT_SIZE), anchor="mm")
    return sheet


def _fitting(text: str, width: int, ending: str = "") -> str:
    """`text` and `ending`, with `text` shortened to fit into `width` pixels, less a margin."""
    shortened = text + ending
    while text and font(TEXT_SIZE).getlength(shortened) > width - MARGIN:
        text = text[:-1]
        shortened = f"{text}…{ending}"
    return shortened


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font has few letters beyond the English ones. Loading matplotlib takes longer
    # than finding it.
    matplotlib = Path(find_spec("matplotlib").origin).parent
    return ImageFont.truetype(matplotlib / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)
