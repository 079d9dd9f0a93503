"""Decoding: from an image file to an array of pixels, the same way wherever one is needed."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from image_classifier.errors import InputError

PILLOW_MODES = {"rgb": "RGB", "grayscale": "L"}


class UnreadableImageError(InputError):
    """A file that cannot be decoded; the message is the reason alone, without the file's name."""


def load_image(path: Path, image_size: int, color_mode: str) -> np.ndarray:
    """Decode a picture, turn it upright as its EXIF data says, and scale it to a square.

    Args:
        path: a file in any format that Pillow reads; of an animation the first frame is used.
        image_size: height and width of the result, in pixels. The aspect ratio is not kept, as in
            `keras.utils.image_dataset_from_directory`.
        color_mode: "rgb" or "grayscale".

    Returns:
        uint8 (image_size, image_size, 3 or 1), values 0 to 255.

    Raises:
        UnreadableImageError: if the file is damaged, is no picture, or is too large to be decoded
            safely (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    mode = PILLOW_MODES[color_mode]
    try:
        with Image.open(path) as image:
            # JPEGs can be decoded at 1/2, 1/4 or 1/8 of their size, for less than the full cost.
            image.draft(mode, (image_size, image_size))
            image = _eight_bits(ImageOps.exif_transpose(image)).convert(mode)
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        reason = str(error).replace(str(path), path.name).replace(repr(path), path.name)
        raise UnreadableImageError(reason or type(error).__name__) from None
    return np.asarray(image).reshape(image_size, image_size, -1)


def unreadable_reason(path: Path) -> str | None:
    """Why a picture cannot be decoded, or None if it can. All of the file is read."""
    try:
        load_image(path, image_size=8, color_mode="rgb")
    except UnreadableImageError as error:
        return str(error)
    return None


def load_batches(
    paths: Sequence[Path], batch_size: int, image_size: int, color_mode: str
) -> Iterator[np.ndarray]:
    """Decode pictures on all cores, a little ahead of the consumer: memory stays bounded.

    Yields:
        uint8 (n, image_size, image_size, channels); n is `batch_size`, in the last perhaps less.

    Raises:
        InputError: naming the file, if one cannot be decoded.
    """

    def load(path: Path) -> np.ndarray:
        try:
            return load_image(path, image_size, color_mode)
        except UnreadableImageError as error:
            raise InputError(f"{path}: {error}") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead: deque[list] = deque()
        for start in range(0, len(paths), batch_size):
            ahead.append([pool.submit(load, path) for path in paths[start : start + batch_size]])
            if len(ahead) > 2:
                yield np.stack([future.result() for future in ahead.popleft()])
        while ahead:
            yield np.stack([future.result() for future in ahead.popleft()])


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grayscale to 8 bits; Pillow's own `convert` would cut off all above 255."""
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image).astype(np.float32)
    return Image.fromarray((pixels / 257).clip(0, 255).round().astype(np.uint8))
