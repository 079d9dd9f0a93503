from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import write_image
from image_classifier.computing.prepared import ImageRecord
from image_classifier.outputs.sheets import (
    CELL_HEIGHT,
    CELL_WIDTH,
    FRAME,
    IMAGE_SIZE,
    LINE_HEIGHT,
    MARGIN,
    PAPER,
    RIGHT,
    TEXT_SIZE,
    TITLE_HEIGHT,
    WRONG,
    load_images,
    prediction_sheet,
)


def test_frames_show_which_predictions_are_right(tmp_path: Path):
    write_image(tmp_path / "red.png", (200, 60, 60), seed=0)
    images = load_images(tmp_path, [ImageRecord("red.png", "red", "validation", "")] * 8)
    probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (8, 1))
    probabilities[7] = (0.2, 0.8)
    sheet = prediction_sheet(images, ["red"] * 8, probabilities, ["red", "$blue$"], "Title")
    assert sheet.size == (3 * CELL_WIDTH, TITLE_HEIGHT + 3 * CELL_HEIGHT)

    def frame(column: int, row: int) -> str:
        place = (column * CELL_WIDTH + MARGIN, TITLE_HEIGHT + row * CELL_HEIGHT)
        return "#{:02x}{:02x}{:02x}".format(*sheet.getpixel(place))

    assert [frame(0, 0), frame(2, 0), frame(0, 2), frame(1, 2)] == [RIGHT, RIGHT, RIGHT, WRONG]
    assert frame(2, 2) == PAPER  # filled from the top left
    middle = sheet.crop((MARGIN + FRAME, TITLE_HEIGHT + FRAME, CELL_WIDTH // 2, CELL_HEIGHT // 2))
    red, green, _ = np.asarray(middle).reshape(-1, 3).mean(axis=0)
    assert red > 2 * green


@pytest.mark.parametrize(
    "name", ["a name that is much longer than its image " * 3, "длинное имя" * 9]
)
def test_long_names_stay_below_their_image(name: str):
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    sheet = prediction_sheet(
        [image, image], [name, "b"], np.array([[1, 0], [0, 1]], np.float32), [name, "b"], ""
    )
    ink = np.asarray(sheet.convert("L"))[TITLE_HEIGHT:] < 128
    gap = ink[:, CELL_WIDTH - MARGIN // 2 : CELL_WIDTH + MARGIN // 2]
    assert ink.any() and not gap.any()


def test_letters_of_other_alphabets_are_drawn():
    """A font that lacks a letter draws the same box for all of them."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    probabilities = np.ones((1, 1), np.float32)
    names = ["щ", "ж", "ψ", "é"]
    sheets = {
        prediction_sheet([image], [name], probabilities, [name], "").tobytes() for name in names
    }
    assert len(sheets) == len(names)


@pytest.mark.parametrize("places", [1, 6, 12, 24, 1000])
def test_a_sheet_has_one_size_however_many_images_it_has(places: int):
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    sizes = set()
    for count in {0, 1, places // 2, places}:
        probabilities = np.ones((count, 1), np.float32)
        sheet = prediction_sheet([image] * count, ["a"] * count, probabilities, ["a"], "", places)
        sizes.add(sheet.size)
    ((width, height),) = sizes
    assert width >= 3 * CELL_WIDTH and max(width, height) < 10_000
    assert (width // CELL_WIDTH) * (height // CELL_HEIGHT) >= places


def test_text_is_legible_at_the_width_of_the_extension():
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    probabilities = np.ones((12, 1), np.float32)
    sheet = prediction_sheet([image] * 12, ["H"] * 12, probabilities, ["H"], "")
    assert TEXT_SIZE * 350 / sheet.width > 10
    below = np.asarray(sheet.convert("L"))[TITLE_HEIGHT + IMAGE_SIZE + 2 * FRAME :][
        : 2 * LINE_HEIGHT
    ]
    rows = (below < 128).any(axis=1)
    assert rows.sum() * 350 / sheet.width > 2 * 6  # two lines of capitals, in pixels


def test_a_long_title_is_shortened_to_the_sheet():
    sheet = prediction_sheet([], [], np.zeros((0, 2), np.float32), ["a", "b"], "title " * 50, 3)
    ink = np.asarray(sheet.convert("L")) < 128
    assert ink[:, 8:-8].any() and not ink[:, :2].any() and not ink[:, -2:].any()


def test_a_sheet_without_images_has_the_title():
    empty = prediction_sheet([], [], np.zeros((0, 2), np.float32), ["a", "b"], "No mistakes")
    assert empty.height == TITLE_HEIGHT and (np.asarray(empty) < 128).any()
