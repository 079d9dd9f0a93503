"""Embed images in an HTML page, at a size that fits its budget."""

import base64
import io
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

from PIL import Image

from image_classifier.common.progress import track

SAMPLE = 8  # images to try an encoding on, before all are encoded

Loader = Callable[[int], Image.Image]  # decodes an image, given its maximum width in pixels


def embed(
    loaders: Sequence[Loader], encodings: Sequence[tuple[int, int]], budget: int, description: str
) -> list[str]:
    """Encode images as `data:` URLs that together stay within a budget.

    All images get the first encoding with which they fit, as estimated from a sample. If they
    still exceed the budget, the last images are reduced further, and finally left out. An image
    that is left out or cannot be decoded has an empty URL.

    Args:
        loaders: most important image first.
        encodings: maximum widths in pixels and qualities of WebP, 0 to 100; best one first.
        budget: total number of characters of all URLs.
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
        urls = list(track(pool.map(encode, loaders), description, len(loaders)))

    excess = sum(map(len, urls)) - budget
    for encoding, place in product([*smaller, None], reversed(range(len(loaders)))):
        if excess <= 0:
            break
        url = _encode(loaders[place], encoding) if encoding else ""
        excess -= len(urls[place]) - len(url)
        urls[place] = url
    return urls


def _encode(load: Loader, encoding: tuple[int, int]) -> str:
    width, quality = encoding
    try:
        image = load(width)
    except Exception:  # Pillow's decoders raise nearly anything on a damaged file
        return ""
    file = io.BytesIO()
    # The default method, 4, makes files a tenth smaller and takes twice as long.
    image.save(file, "WEBP", quality=quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
