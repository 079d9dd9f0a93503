from pathlib import Path

import numpy as np
from PIL import Image

from helpers.images import write_image
from image_classifier.computing.prepared import ImageRecord
from image_classifier.outputs.sheets import (
    CELL_HEIGHT,
    CELL_WIDTH,
    FRAME,
    MARGIN,
    RIGHT,
    TITLE_HEIGHT,
    WRONG,
    load_images,
    prediction_sheet,
)


def test_a_sheet_frames_each_image_by_whether_it_was_right(tmp_path: Path):
    write_image(tmp_path / "red.png", (200, 60, 60), seed=0)
    images = load_images(tmp_path, [ImageRecord("red.png", "red", "validation", "")] * 8)
    probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (8, 1))
    probabilities[7] = (0.2, 0.8)
    sheet = prediction_sheet(images, ["red"] * 8, probabilities, ["red", "$blue$"], "Title")
    assert sheet.size == (6 * CELL_WIDTH, TITLE_HEIGHT + 2 * CELL_HEIGHT)

    def frame(column: int, row: int) -> str:
        place = (column * CELL_WIDTH + MARGIN, TITLE_HEIGHT + row * CELL_HEIGHT)
        return "#{:02x}{:02x}{:02x}".format(*sheet.getpixel(place))

    assert [frame(0, 0), frame(5, 0), frame(0, 1), frame(1, 1)] == [RIGHT, RIGHT, RIGHT, WRONG]
    middle = sheet.crop((MARGIN + FRAME, TITLE_HEIGHT + FRAME, CELL_WIDTH // 2, CELL_HEIGHT // 2))
    red, green, _ = np.asarray(middle).reshape(-1, 3).mean(axis=0)
    assert red > 2 * green


def test_long_names_stay_below_their_image():
    image = Image.new("RGB", (128, 128))
    name = "a name that is much longer than an image is wide, " * 3
    sheet = prediction_sheet(
        [image, image], [name, "b"], np.array([[1, 0], [0, 1]], np.float32), [name, "b"], ""
    )
    ink = np.asarray(sheet.convert("L"))[TITLE_HEIGHT:] < 128
    gap = ink[:, CELL_WIDTH - MARGIN // 2 : CELL_WIDTH + MARGIN // 2]
    assert ink.any() and not gap.any()


def test_no_image_gives_a_sheet_with_the_title():
    empty = prediction_sheet([], [], np.zeros((0, 2), np.float32), ["a", "b"], "No mistakes")
    assert empty.height == TITLE_HEIGHT and (np.asarray(empty) < 128).any()
