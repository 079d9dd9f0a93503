import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_classifier.common.errors import InputError
from image_classifier.common.images import (
    load_batches,
    load_for_display,
    load_image,
    load_readable_batches,
    unreadable_reason,
)

ORIENTATION = 0x0112  # the EXIF tag


def halves(mode: str, left: object, right: object) -> Image.Image:
    """A 40x20 image with one colour in the left half and one in the right."""
    image = Image.new(mode, (40, 20), left)
    image.paste(Image.new(mode, (20, 20), right), (20, 0))
    return image


@pytest.mark.parametrize(
    ("mode", "left", "right"),
    [
        ("RGB", (0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
        ("L", 0, 255),
        ("LA", (0, 255), (255, 255)),
        ("1", 0, 1),
        ("I;16", 0, 65535),
    ],
)
@pytest.mark.parametrize(("color_mode", "channels"), [("rgb", 3), ("grayscale", 1)])
def test_any_mode_becomes_eight_bits(tmp_path: Path, mode, left, right, color_mode, channels):
    path = tmp_path / "image.png"
    halves(mode, left, right).save(path)
    pixels = load_image(path, 10, color_mode)
    assert pixels.dtype == np.uint8 and pixels.shape == (10, 10, channels)
    assert pixels[:, :4].max() == 0 and pixels[:, 6:].min() == 255


def test_cmyk_and_palette_keep_their_colours(tmp_path: Path):
    red = Image.new("RGB", (20, 20), (254, 0, 0))
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    red.convert("P").save(tmp_path / "palette.gif")
    for name in ("cmyk.jpg", "palette.gif"):
        pixels = load_image(tmp_path / name, 8, "rgb").astype(int)
        assert np.abs(pixels - (254, 0, 0)).max() < 10, name


@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int):
    image = Image.fromarray(np.arange(0, 240, 20, np.uint8).reshape(3, 4)).resize((80, 60))
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned.{kind}"
    image.save(path, exif=exif, quality=95)
    turned = ImageOps.exif_transpose(Image.open(path))
    expected = np.asarray(turned.convert("RGB").resize((12, 12), Image.Resampling.BILINEAR))
    assert np.abs(load_image(path, 12, "rgb").astype(int) - expected).max() < 8
    assert load_for_display(path, 80).size == turned.size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_areas_become_white(tmp_path: Path, mode: str):
    # Black on black for a decoder that only drops the transparency.
    image = halves("LA", (0, 255), (0, 0))
    image = image.convert("RGBA").quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "image.png")
    pixels = load_image(tmp_path / "image.png", 10, "rgb")
    assert pixels[:, :4].max() == 0 and pixels[:, 6:].min() == 255


def pixels_with(exif: bytes, folder: Path) -> np.ndarray:
    halves("RGB", (0, 0, 0), (255, 255, 255)).save(folder / "a.jpg", exif=exif, quality=95)
    return load_image(folder / "a.jpg", 10, "rgb")


@pytest.mark.parametrize(
    "tag",
    [
        struct.pack("<HHI4s", 0x011A, 2, 2, b"x"),  # text as the resolution
        struct.pack("<HHII", 0x011A, 5, 1, 0xFFFFFFFF),  # a resolution stored outside the file
    ],
)
def test_exif_orientation_is_applied_despite_other_damaged_data(tmp_path: Path, tag: bytes):
    upright = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + upright + tag + bytes(4)
    pixels = pixels_with(exif, tmp_path)
    assert pixels[:4].max() < 30 and pixels[6:].min() > 225


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_an_image_with_damaged_exif_data_is_not_rotated(tmp_path: Path, exif: bytes):
    pixels = pixels_with(exif, tmp_path)
    assert pixels[:, :4].max() < 30 and pixels[:, 6:].min() > 225


@pytest.mark.parametrize("values", [[0.0, 1.0], [0, 65536], [-1, 1]])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, values: list):
    dtype = np.float32 if isinstance(values[0], float) else np.int32
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tiff")
    assert "allowed: 8 or 16 bits" in unreadable_reason(tmp_path / "a.tiff")


@pytest.mark.fault("Security", "EPS program called .jpg", "skipped, no other program is started")
def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.eps")
    path = (tmp_path / "image.eps").rename(tmp_path / "image.jpg")
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: started.append(1))
    assert "cannot identify image file" in unreadable_reason(path)
    assert not started


def test_a_large_jpeg_decoded_small_is_the_same_image(tmp_path: Path):
    gradient = np.tile(np.linspace(0, 255, 1600).astype(np.uint8), (1600, 1))
    Image.fromarray(gradient).convert("RGB").save(tmp_path / "large.jpg", quality=95)
    row = load_image(tmp_path / "large.jpg", 16, "rgb")[8, :, 0].astype(float)
    assert np.abs(row - (np.arange(16) + 0.5) * 255 / 16).max() < 3


def test_reasons_for_unreadable_files_do_not_contain_the_folder(tmp_path: Path):
    good = tmp_path / "good.jpg"
    Image.effect_noise((200, 200), 90).convert("RGB").save(good)
    (tmp_path / "truncated.jpg").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "back\\slash.jpg").touch()
    assert unreadable_reason(good) is None
    assert "truncated" in unreadable_reason(tmp_path / "truncated.jpg")
    for name in ("text.jpg", "empty.png", "back\\slash.jpg"):
        reason = unreadable_reason(tmp_path / name)
        assert "cannot identify image file" in reason
        assert str(tmp_path) not in reason
        with pytest.raises(InputError, match=f"{re.escape(name)}: cannot identify"):
            load_image(tmp_path / name, 8, "rgb")


def test_a_decompression_bomb_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("L", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "decompression bomb" in unreadable_reason(tmp_path / "bomb.png")


def write_levels(folder: Path, levels: range) -> list[Path]:
    """Write grey images named by their level."""
    paths = [folder / f"{level}.png" for level in levels]
    for path in paths:
        Image.new("L", (5, 5), int(path.stem)).save(path)
    return paths


def test_batches_keep_the_order(tmp_path: Path):
    paths = write_levels(tmp_path, range(0, 250, 10))
    batches = list(load_batches(paths, 4, image_size=8, color_mode="grayscale"))
    assert [len(batch) for batch in batches] == [4] * 6 + [1]
    levels = np.concatenate(batches)[:, 0, 0, 0]
    assert levels.tolist() == list(range(0, 250, 10))


def test_the_error_names_the_damaged_file(tmp_path: Path):
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(InputError, match=r"bad\.png: cannot identify"):
        list(load_batches([tmp_path / "bad.png"], 4, image_size=8, color_mode="rgb"))


def test_batches_without_damaged_files(tmp_path: Path):
    paths = write_levels(tmp_path, range(0, 130, 10))
    damaged = [
        paths[1],
        *paths[4:8],
        paths[12],
    ]  # one of a batch of 4, a whole batch, and the only image of a batch
    for path in damaged:
        path.write_text("no image")
    errors = []
    batches = list(load_readable_batches(paths, 4, 8, "grayscale", errors.append))
    assert [len(batch) for batch, _ in batches] == [3, 4]
    for batch, pixels in batches:
        assert pixels.shape == (len(batch), 8, 8, 1)
        assert pixels[:, 0, 0, 0].tolist() == [int(path.stem) for path in batch]
    assert [str(error).partition(":")[0] for error in errors] == [str(path) for path in damaged]


def test_images_for_display_keep_their_shape(tmp_path: Path):
    image = halves("RGB", (0, 0, 0), (255, 255, 255))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    shown = load_for_display(tmp_path / "turned.png", 100)
    assert shown.size == (50, 100) and shown.mode == "RGB"
    assert shown.getpixel((25, 10)) == (0, 0, 0) and shown.getpixel((25, 90)) == (255, 255, 255)
    Image.new("L", (900, 1)).save(tmp_path / "line.png")
    assert load_for_display(tmp_path / "line.png", 100).size == (100, 1)
    assert load_for_display(tmp_path / "line.png", 100, enlarge=False).size == (100, 1)
    assert load_for_display(tmp_path / "line.png", 1_000).size == (1_000, 1)
    assert load_for_display(tmp_path / "line.png", 1_000, enlarge=False).size == (900, 1)
    with pytest.raises(InputError, match=r"gone\.png: .*No such file"):
        load_for_display(tmp_path / "gone.png", 100)
