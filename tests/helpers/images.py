"""Small images and image files."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def noisy_image(seed: int, size: tuple[int, int] = (24, 24)) -> Image.Image:
    """An image of coloured noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image encoded as the bytes of a file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_image(path: Path, color: tuple[int, int, int], seed: int, size: int = 24) -> None:
    """Write a noisy image of one colour, different for each seed."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(path)
