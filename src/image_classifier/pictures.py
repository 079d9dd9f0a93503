"""Sheets of pictures with what the network says of them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from image_classifier.images import load_image
from image_classifier.raw_data import locate
from image_classifier.splits import ImageRecord

COLUMNS = 6
PICTURE_SIZE = 128  # pixels, as are the lengths below
MARGIN = 8
FRAME = 4
LINE_HEIGHT = 16
TITLE_HEIGHT = 36
CELL_WIDTH = PICTURE_SIZE + 2 * (FRAME + MARGIN)
CELL_HEIGHT = PICTURE_SIZE + 2 * (FRAME + MARGIN) + 2 * LINE_HEIGHT
RIGHT, WRONG, INK, PAPER = "#1b7837", "#b2182b", "#222222", "#ffffff"


def worst_first(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Rows ordered by how far from right they are: mistakes first, the most confident at the top.

    Args:
        labels: int64 (n,).
        probabilities: float32 (n, class_count).

    Returns:
        int64 (n,): row numbers by the probability of the true class less that of the strongest
        other one, ascending.
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    return np.argsort(probabilities[rows, labels] - others.max(axis=1), kind="stable")


def load_pictures(root: Path, records: Sequence[ImageRecord]) -> list[Image.Image]:
    """Decode pictures for `prediction_sheet`, as the network sees them: scaled to a square.

    Args:
        root: the folder that the records' paths are relative to.
        records: the pictures.

    Raises:
        InputError: naming the file, if one cannot be decoded.
    """
    pictures = [load_image(locate(root, record.path), PICTURE_SIZE, "rgb") for record in records]
    return [Image.fromarray(picture) for picture in pictures]


def prediction_sheet(
    pictures: Sequence[Image.Image],
    true_names: Sequence[str],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
) -> Image.Image:
    """Draw pictures in rows, each with its predicted class, the confidence and its true class.

    A few milliseconds, so that it can be done after each epoch.

    Args:
        pictures: as `load_pictures` gives them; none at all gives a sheet with the title.
        true_names: the class of each picture.
        probabilities: float32 (len(pictures), class_count).
        class_names: in the order of the model's outputs.
        title: a line above the pictures.
    """
    row_count = -(-len(pictures) // COLUMNS)
    size = (COLUMNS * CELL_WIDTH, TITLE_HEIGHT + row_count * CELL_HEIGHT)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((size[0] / 2, TITLE_HEIGHT / 2), title, INK, _font(17), anchor="mm")
    for position, (picture, true_name, outputs) in enumerate(
        zip(pictures, true_names, probabilities, strict=True)
    ):
        row, column = divmod(position, COLUMNS)
        left, top = column * CELL_WIDTH + MARGIN, TITLE_HEIGHT + row * CELL_HEIGHT
        predicted = class_names[outputs.argmax()]
        color = RIGHT if predicted == true_name else WRONG
        frame_size = PICTURE_SIZE + 2 * FRAME
        draw.rectangle((left, top, left + frame_size - 1, top + frame_size - 1), color)
        sheet.paste(picture, (left + FRAME, top + FRAME))
        first_line = top + frame_size + LINE_HEIGHT / 2 + 2
        confidence = f" ({outputs.max():.1%})"
        for offset, line in enumerate(
            (_fitting(predicted, confidence), _fitting(f"true: {true_name}", ""))
        ):
            place = (left + frame_size / 2, first_line + offset * LINE_HEIGHT)
            draw.text(place, line, color if offset == 0 else INK, _font(12), anchor="mm")
    return sheet


def _fitting(text: str, ending: str) -> str:
    """`text`, shortened until it fits below a picture together with `ending`."""
    room = CELL_WIDTH - MARGIN
    if _font(12).getlength(text + ending) <= room:
        return text + ending
    while text and _font(12).getlength(f"{text}…{ending}") > room:
        text = text[:-1]
    return f"{text}…{ending}"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font lacks most letters beyond English.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
