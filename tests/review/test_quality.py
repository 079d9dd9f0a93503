"""Images of poor quality are found, and others are not."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFilter
from sklearn.datasets import load_digits

from helpers.images import noisy_image
from image_classifier.common.errors import InputError
from image_classifier.review import quality
from image_classifier.review.findings import Finding
from image_classifier.review.quality import measure, poor_quality


@lru_cache
def photo(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Overlapping discs of all sizes and shades: their edges are as frequent as those of photos."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    for _ in range(700):
        radius = 2 / generator.uniform(0.02, 1)
        x, y = generator.uniform((0, 0), size)
        shade = tuple(generator.integers(30, 226, 3).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)
    return image


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.width / 40))


def dark(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value // 8)


def transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(0)
    return image


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def save(
    folder: Path, images: Sequence[Image.Image], suffix: str = "png", **options: object
) -> list[Path]:
    paths = [folder / f"{number}.{suffix}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path, **options)
    return paths


def problems(findings: Sequence[Finding]) -> dict[int, str]:
    assert all(kind == "quality" and 0 < score <= 1 for _, kind, _, score in findings)
    return {finding.image: finding.suggested for finding in findings}


@pytest.mark.fault(
    "Data", "images of one colour, dark, blurred or tiny", "the review finds them, and no others"
)
def test_images_of_poor_quality_are_found_among_others(tmp_path: Path):
    good = [photo(seed) for seed in range(5)]
    bad = [
        Image.new("RGB", (400, 300), (200, 30, 90)),
        dark(good[0]),
        blurred(good[1]),
        good[2].resize((40, 30)),
        dark(blurred(good[3])),
    ]
    found = poor_quality(save(tmp_path, [*good, *bad]))
    assert problems(found) == {5: "one colour", 6: "dark", 7: "blurred", 8: "tiny", 9: "dark"}
    scores = [finding.score for finding in found]
    assert scores == sorted(scores, reverse=True) and found[0] == (5, "quality", "one colour", 1)


@pytest.mark.parametrize(
    ("suffix", "change", "options"),
    [
        ("jpg", lambda image: image, {}),
        ("jpg", lambda image: image, {"quality": 30}),
        ("png", lambda image: image.convert("L"), {}),
        ("png", sixteen_bits, {}),
        ("tiff", lambda image: image.convert("CMYK"), {}),
        ("webp", lambda image: image, {"quality": 50}),
        ("png", lambda image: image.resize((1000, 750)), {}),
        ("png", lambda image: image.resize((96, 72)), {}),
    ],
    ids=["JPEG", "low quality", "grayscale", "16 bits", "CMYK", "WebP", "large", "small"],
)
def test_images_of_all_kinds_are_good_and_bad(
    tmp_path: Path, suffix: str, change: Callable[[Image.Image], Image.Image], options: dict
):
    images = [photo(seed) for seed in range(3)]
    images = [*images, blurred(images[0]), dark(images[1])]
    found = poor_quality(save(tmp_path, list(map(change, images)), suffix, **options))
    assert problems(found) == {3: "blurred", 4: "dark"}


def test_invisible_colours_do_not_count(tmp_path: Path):
    found = poor_quality(save(tmp_path, [transparent(photo(0)), photo(1)]))
    assert problems(found) == {0: "one colour"}


@pytest.mark.parametrize(("first", "expected"), [(0, {}), (1, {0: "one colour"})])
def test_the_first_image_of_an_animation_counts(tmp_path: Path, first: int, expected: dict):
    frames = [photo(0).quantize(), Image.new("P", (400, 300))]
    frames = frames[first:] + frames[:first]
    paths = save(tmp_path, frames[:1], "gif", save_all=True, append_images=frames[1:])
    assert problems(poor_quality(paths)) == expected


def test_images_are_measured_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    paths = save(tmp_path, [photo(0, (300, 100))] * 2, "png")
    photo(0, (300, 100)).save(paths[1], exif=exif)
    upright, turned = map(measure, paths)
    assert turned.shorter_side == 100 and turned == pytest.approx(upright, rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (500, 1), (2, 500)])
@pytest.mark.filterwarnings("error")
def test_images_of_a_few_pixels_are_measured(tmp_path: Path, size: tuple[int, int]):
    paths = save(tmp_path, [noisy_image(0, size), *(photo(seed, (60, 40)) for seed in range(3))])
    measures = measure(paths[0])
    assert measures.shorter_side == min(size) and np.isfinite(measures).all()
    assert list(problems(poor_quality(paths))) == [0]


def test_small_images_are_not_called_blurred(tmp_path: Path):
    digits = load_digits().images[:100]
    paths = save(tmp_path, [Image.fromarray((digit * 15).astype(np.uint8)) for digit in digits])
    assert poor_quality(paths) == []
    paths = save(tmp_path, [photo(seed, (400, 300)).resize((32, 24)) for seed in range(5)])
    assert poor_quality(paths) == []


@pytest.mark.fault(
    "Data", "image damaged or removed before the review", "one-line error that names the file"
)
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quality, "IMAGES_AT_ONCE", 2)
    paths = save(tmp_path, [photo(seed, (60, 40)) for seed in range(5)])
    assert poor_quality(paths) == []
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    with pytest.raises(InputError, match=r"3\.png: .*trunc") as error:
        poor_quality(paths)
    assert "\n" not in str(error.value)
    paths[3].unlink()
    with pytest.raises(InputError, match=r"3\.png: .*No such file"):
        poor_quality(paths)
