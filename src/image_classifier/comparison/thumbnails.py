"""Images made small enough to travel inside one HTML page."""

import base64
import io
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

from PIL import Image
from tqdm import tqdm

SAMPLE = 8  # images that are tried with an encoding before all are

Loader = Callable[[int], Image.Image]  # decodes an image; takes its width, at most, in pixels


def embed(
    loaders: Sequence[Loader], encodings: Sequence[tuple[int, int]], budget: int, description: str
) -> list[str]:
    """Encode images as `data:` addresses that together stay within a budget.

    All are encoded alike, by the first encoding with which they fit, judging from a sample. If
    they take more than that, those at the end are reduced further, and in the end left out, as is
    one that cannot be decoded: its address is empty.

    Args:
        loaders: the most important one first.
        encodings: widths in pixels, at most, and qualities of WebP, 0 to 100; the best one first.
        budget: characters of all addresses together.
        description: of the progress bar.
    """
    if not loaders:
        return []
    sample = random.Random(0).sample(loaders, min(SAMPLE, len(loaders)))
    smaller = iter(encodings)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for encoding in smaller:
            encode = partial(_encode, encoding=encoding)
            if sum(map(len, pool.map(encode, sample))) / len(sample) * len(loaders) <= budget:
                break
        addresses = list(tqdm(pool.map(encode, loaders), description, len(loaders), unit="image"))

    excess = sum(map(len, addresses)) - budget
    for encoding, place in product([*smaller, None], reversed(range(len(loaders)))):
        if excess <= 0:
            break
        address = _encode(loaders[place], encoding) if encoding else ""
        excess -= len(addresses[place]) - len(address)
        addresses[place] = address
    return addresses


def _encode(load: Loader, encoding: tuple[int, int]) -> str:
    width, quality = encoding
    try:
        image = load(width)
    except Exception:  # Pillow's decoders raise nearly anything on a damaged file
        return ""
    file = io.BytesIO()
    # The default method, 4, makes it a tenth smaller and takes twice as long.
    image.save(file, "WEBP", quality=quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
