"""Decode image files to arrays of pixels, in the same way for all stages and commands."""

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from image_classifier.common.decoding import decode_ahead
from image_classifier.common.errors import InputError
from image_classifier.common.remote import RemoteFile, is_remote, read

PILLOW_MODES = {"rgb": "RGB", "grayscale": "L"}
# Not every format of Pillow: it detects EPS by content and would start Ghostscript. Pillow tries
# them in this order.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "ICO", "JPEG2000", "PPM", "TGA", "TIFF")
TURNS = {  # EXIF orientation -> the transposition that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns about large images and damaged metadata; neither changes the pixels.
warnings.filterwarnings("ignore", module="PIL")


class Content(NamedTuple):
    """An image file that is already in memory."""

    name: str  # for messages
    content: bytes

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        return self.content


Location = Path | str | RemoteFile | Content
"""An image's path, its URL as text, a remote file with its hash, or its content in memory."""


def load_image(path: Location, image_size: int, color_mode: str) -> np.ndarray:
    """Decode an image, rotate it upright by its EXIF data, and scale it to a square.

    Args:
        path: a file in one of `FORMATS`, whatever its extension. If it contains several images,
            such as an animation, the first is used. Transparent areas become white.
        image_size: height and width of the result, in pixels. The aspect ratio is not kept, as in
            `keras.utils.image_dataset_from_directory`.
        color_mode: "rgb" or "grayscale".

    Returns:
        uint8 (image_size, image_size, 3 or 1), values 0 to 255.

    Raises:
        InputError: naming the file, if it is missing, damaged, not an image, or too large to be
            decoded safely (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    try:
        return _decode(path, image_size, color_mode)
    except MemoryError:
        raise MemoryError(f"{path} cannot be decoded") from None
    except InputError:  # the file could not be read
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise InputError(f"{path}: {_reason(error, path)}") from None


def load_for_display(path: Location, longer_side: int, enlarge: bool = True) -> Image.Image:
    """Decode an image for display: RGB, upright, with its aspect ratio.

    The longer side of the result has `longer_side` pixels, or without `enlarge` at most as many.

    Raises:
        InputError: as for `load_image`.
    """
    try:
        image = _open(path, longer_side, "RGB")
    except Exception as error:
        raise InputError(f"{path}: {_reason(error, path)}") from None
    scale = longer_side / max(image.size)
    if scale > 1 and not enlarge:
        return image
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.BILINEAR)


def unreadable_reason(path: Location) -> str | None:
    """Why an image cannot be decoded, or None if it can. The whole file is decoded.

    Raises:
        MemoryError: if there is too little memory, which is not the file's fault.
    """
    try:
        _decode(path, image_size=8, color_mode="rgb")
    except MemoryError:
        raise MemoryError(f"{path} cannot be decoded") from None
    except Exception as error:
        return _reason(error, path)
    return None


def load_batches(
    paths: Sequence[Location],
    batch_size: int,
    image_size: int,
    color_mode: str,
    threads: int | None = None,
) -> Iterator[np.ndarray]:
    """Decode images like `load_image`, two batches ahead of the consumer, so memory is bounded.

    `threads` is the number of images that are decoded at once; None: one per core of the machine.

    Yields:
        uint8 (n, image_size, image_size, channels); n is `batch_size`, or less in the last batch.

    Raises:
        InputError: naming the file, if an image cannot be decoded.
    """
    for _, results in _decode_ahead(paths, batch_size, image_size, color_mode, threads):
        yield np.stack([_pixels(result) for result in results])


def load_readable_batches(
    paths: Sequence[Path],
    batch_size: int,
    image_size: int,
    color_mode: str,
    report: Callable[[InputError], None],
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Decode images like `load_batches`, but pass errors to `report` and skip their files.

    Yields:
        The paths of the readable images of a batch, at least one, and their pixels.
    """
    for batch, results in _decode_ahead(paths, batch_size, image_size, color_mode):
        readable, images = [], []
        for path, result in zip(batch, results, strict=True):
            if isinstance(result, InputError):
                report(result)
            else:
                images.append(result)
                readable.append(path)
        if readable:
            yield readable, np.stack(images)


def _pixels(result: np.ndarray | InputError) -> np.ndarray:
    if isinstance(result, InputError):
        raise result
    return result


def _decode_ahead(
    paths: Sequence[Location],
    batch_size: int,
    image_size: int,
    color_mode: str,
    threads: int | None = None,
) -> Iterator[tuple[Sequence[Location], Iterator[np.ndarray | InputError]]]:
    load = partial(load_image, image_size=image_size, color_mode=color_mode)
    shape = (image_size, image_size, len(PILLOW_MODES[color_mode]))
    return decode_ahead(load, paths, batch_size, shape, threads or os.cpu_count())


def _decode(path: Location, image_size: int, color_mode: str) -> np.ndarray:
    image = _open(path, image_size, PILLOW_MODES[color_mode])
    image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image_size, image_size, -1)


def _open(path: Location, smallest_side: int, mode: str) -> Image.Image:
    """Decode an image, upright, at its own size or reduced to no less than `smallest_side`."""
    if isinstance(path, Content | RemoteFile):
        path = io.BytesIO(path.read())
    elif is_remote(str(path)):
        path = io.BytesIO(read(str(path)))
    with Image.open(path, formats=FORMATS) as image:
        # JPEGs can be decoded at 1/2, 1/4 or 1/8 of their size, for less than the full cost.
        image.draft(mode, (smallest_side, smallest_side))
        image = _opaque(_eight_bits(_upright(image)))
        return image if image.mode == mode else image.convert(mode)  # which would copy it


def _upright(image: Image.Image) -> Image.Image:
    """Like `PIL.ImageOps.exif_transpose`, which fails on damaged data that it does not need."""
    image.load()  # some formats store EXIF data at the end; TIFFs are already rotated here
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises nearly anything on damaged EXIF data
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _opaque(image: Image.Image) -> Image.Image:
    """Put an image on white; otherwise the invisible colours of transparent areas would show."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _reason(error: Exception, path: Location) -> str:
    """The text of an error, without the file's (temporary) folder or its address in memory."""
    name = Path(str(path)).name
    reason = str(error).replace(repr(str(path)), repr(name)).replace(str(path), name)
    reason = re.sub(r"<_io\.BytesIO [^>]*>", lambda _: repr(name), reason)
    return reason or type(error).__name__


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grayscale to 8 bits; Pillow's `convert` would clip all values above 255."""
    if image.mode[0] not in "IF":
        return image
    pixels = np.asarray(image).astype(np.float32)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("found 32-bit pixels, whose range is unknown; allowed: 8 or 16 bits")
    return Image.fromarray((pixels / 257).round().astype(np.uint8))
