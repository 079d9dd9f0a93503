"""Pictures made small enough to travel inside one HTML page."""

import base64
import io
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

SAMPLE = 8  # pictures that are tried with an encoding before all are


class Encoding(NamedTuple):
    """How far pictures are reduced."""

    width: int  # in pixels, at most
    quality: int  # of WebP, 0 to 100


def embed(
    pictures: Sequence[Callable[[int], Image.Image]],
    encodings: Sequence[Encoding],
    budget: int,
    description: str,
) -> list[str]:
    """Encode pictures as `data:` addresses that together stay within a budget.

    All are encoded alike, by the first encoding with which they fit, judging from a sample. If
    they take more than that, those at the end are reduced further, and left out in the end.

    Args:
        pictures: functions that decode a picture, given the width that it may have in pixels;
            the most important one first. One that fails is left out.
        encodings: the best one first.
        budget: characters of all addresses together.
        description: of the progress bar.

    Returns:
        An address for each picture; an empty one for what is left out.
    """
    if not pictures:
        return []
    sample = random.Random(0).sample(pictures, min(SAMPLE, len(pictures)))
    smaller = deque(encodings)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while smaller:
            encode = partial(_encode, encoding=smaller.popleft())
            if sum(map(len, pool.map(encode, sample))) / len(sample) * len(pictures) <= budget:
                break
        encoded = pool.map(encode, pictures)
        addresses = list(tqdm(encoded, description, len(pictures), unit="picture"))

    excess = sum(map(len, addresses)) - budget
    for encoding in [*smaller, None]:
        for place in reversed(range(len(pictures))):
            if excess <= 0:
                return addresses
            address = _encode(pictures[place], encoding) if encoding else ""
            excess -= len(addresses[place]) - len(address)
            addresses[place] = address
    return addresses


def _encode(picture: Callable[[int], Image.Image], encoding: Encoding) -> str:
    try:
        image = picture(encoding.width)
    except Exception:  # Pillow's decoders raise nearly anything on a damaged file
        return ""
    file = io.BytesIO()
    # The default method, 4, makes it a tenth smaller and takes twice as long.
    image.save(file, "WEBP", quality=encoding.quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
