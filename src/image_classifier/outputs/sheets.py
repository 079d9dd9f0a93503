"""Sheets of images with what the network says of them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from image_classifier.common.images import load_image
from image_classifier.common.raw_data import locate
from image_classifier.computing.prepared import ImageRecord

COLUMNS = 6
IMAGE_SIZE = 128  # pixels, as are the lengths below
MARGIN = 8
FRAME = 4
LINE_HEIGHT = 16
TITLE_HEIGHT = 36
CELL_WIDTH = IMAGE_SIZE + 2 * (FRAME + MARGIN)
CELL_HEIGHT = IMAGE_SIZE + 2 * (FRAME + MARGIN) + 2 * LINE_HEIGHT
RIGHT, WRONG, INK, PAPER = "#1b7837", "#b2182b", "#222222", "#ffffff"


def worst_first(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Row numbers, int64 (n,): mistakes first, the most confident at the top.

    `labels` are int64 (n,), `probabilities` float32 (n, class_count). Rows are sorted by the
    probability of the true class less that of the strongest other one, ascending.
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    return np.argsort(probabilities[rows, labels] - others.max(axis=1), kind="stable")


def load_images(root: Path, records: Sequence[ImageRecord]) -> list[Image.Image]:
    """Decode images below `root` as the network sees them: scaled to a square.

    Raises:
        InputError: naming the file, if one cannot be decoded.
    """
    images = [load_image(locate(root, record.path), IMAGE_SIZE, "rgb") for record in records]
    return [Image.fromarray(image) for image in images]


def prediction_sheet(
    images: Sequence[Image.Image],
    true_names: Sequence[str],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
) -> Image.Image:
    """Draw images of `load_images`, each with its predicted class, confidence and true class.

    `probabilities` are float32 (len(images), class_count). Without images there is only the title.
    This takes a few milliseconds, so that it can be done after each epoch.
    """
    row_count = -(-len(images) // COLUMNS)
    size = (COLUMNS * CELL_WIDTH, TITLE_HEIGHT + row_count * CELL_HEIGHT)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((size[0] / 2, TITLE_HEIGHT / 2), title, INK, _font(17), anchor="mm")
    for position, (image, true_name, outputs) in enumerate(
        zip(images, true_names, probabilities, strict=True)
    ):
        row, column = divmod(position, COLUMNS)
        left, top = column * CELL_WIDTH + MARGIN, TITLE_HEIGHT + row * CELL_HEIGHT
        predicted = class_names[outputs.argmax()]
        color = RIGHT if predicted == true_name else WRONG
        framed = ImageOps.expand(image, FRAME, color)
        sheet.paste(framed, (left, top))
        middle, line = left + framed.width / 2, top + framed.height + LINE_HEIGHT / 2 + 2
        text = _fitting(predicted, f" ({outputs.max():.1%})")
        draw.text((middle, line), text, color, _font(12), anchor="mm")
        text = _fitting(f"true: {true_name}")
        draw.text((middle, line + LINE_HEIGHT), text, INK, _font(12), anchor="mm")
    return sheet


def _fitting(text: str, ending: str = "") -> str:
    """`text`, shortened until it fits below an image together with `ending`."""
    shortened = text + ending
    while text and _font(12).getlength(shortened) > CELL_WIDTH - MARGIN:
        text = text[:-1]
        shortened = f"{text}…{ending}"
    return shortened


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font lacks most letters beyond English.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
