"""The datasets of `download.dataset`, each written as class folders of image files.

To add a dataset, write a function like the ones below and add its name to `DATASETS` and to
`DownloadParams.dataset`. It writes `<class>/<file>` below `folder`, or `<split>/<class>/<file>`
with the splits train, validation and test.
"""

import gzip
import hashlib
import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from image_classifier.common.class_folders import (
    describe_left_out,
    find_class_folders,
    find_files,
)
from image_classifier.common.disk import enough_space
from image_classifier.common.errors import InputError
from image_classifier.common.params import DownloadParams
from image_classifier.common.progress import progress_bar
from image_classifier.common.remote import list_images, write_listing
from image_classifier.sources.downloads import WAY_OUT, download
from image_classifier.sources.fetching import fetch, is_listed, is_url

CATS_AND_DOGS_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"

# https://github.com/zalandoresearch/fashion-mnist; the SHA-256 of the uncompressed files.
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# The authors call the first class "T-shirt/top", but a folder name cannot contain a slash.
FASHION_MNIST_CLASSES = [
    "T-shirt_top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def write_digits(params: DownloadParams, folder: Path, scratch: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits, 8x8 pixels, without splits or download."""
    digits = load_digits()
    pixels = (digits.images * (255 / digits.images.max())).round().astype(np.uint8)
    _write_pngs(pixels, digits.target, list("0123456789"), folder)


def write_cats_and_dogs(params: DownloadParams, folder: Path, scratch: Path) -> None:
    """Write 3,000 photos from Kaggle's Dogs vs. Cats: 2,000 for training, 1,000 for validation."""
    source = params.source or CATS_AND_DOGS_URL
    _copy_class_folders(fetch(source, params.sha256, scratch), folder, source)


def write_fashion_mnist(params: DownloadParams, folder: Path, scratch: Path) -> None:
    """Write Zalando's 70,000 images of clothing, 28x28 pixels: 60,000 for training, 10,000 to test.

    `download.source` may be another base URL of the four files, an archive that contains them, or
    a folder such as /usr/share/datasets/fashion-mnist from Debian's dataset-fashion-mnist.
    """
    source = params.source or FASHION_MNIST_URL
    archives = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
    if is_url(source) and not source.endswith(archives):
        files = scratch / "downloaded"
        for name in FASHION_MNIST_FILES:
            download(f"{source.rstrip('/')}/{name}.gz", None, files / f"{name}.gz")
    else:
        files = fetch(source, params.sha256, scratch)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        try:
            images = _read_idx(files, f"{prefix}-images-idx3-ubyte", header_size=16)
            labels = _read_idx(files, f"{prefix}-labels-idx1-ubyte", header_size=8)
        except InputError as error:
            reason = str(error).replace(str(files), source.rstrip("/"))
            raise InputError(f"{reason}; {WAY_OUT}") from None
        _write_pngs(images.reshape(-1, 28, 28), labels, FASHION_MNIST_CLASSES, folder / split)


def write_image_folder(params: DownloadParams, folder: Path, scratch: Path) -> None:
    """Write the user's own images from class folders, optionally below split folders.

    Images in a bucket or a list of URLs are not copied; only a listing is written.
    """
    if is_listed(params.source):
        if params.sha256:
            raise InputError(
                f"download.sha256: found {params.sha256!r}; allowed with a bucket or a list of "
                "URLs: null"
            )
        folder.mkdir()
        write_listing(list_images(params.source), folder)
        return
    _copy_class_folders(fetch(params.source, params.sha256, scratch), folder, params.source)


DATASETS = {
    "digits": write_digits,
    "cats_and_dogs": write_cats_and_dogs,
    "fashion_mnist": write_fashion_mnist,
    "image_folder": write_image_folder,
}


def _copy_class_folders(source: Path, folder: Path, name: str) -> None:
    """Copy class folders to `<split>/<class>/...`, and print which images are left out.

    Errors call the source `name`.
    """
    try:
        class_folders = find_class_folders(source)
    except InputError as error:
        raise InputError(str(error).replace(str(source), name)) from None
    if left_out := describe_left_out(source, class_folders.values()):
        print(left_out, flush=True)
    files = [
        (file, folder / split / class_name / file.relative_to(class_folder))
        for (split, class_name), class_folder in class_folders.items()
        for file in find_files(class_folder)
    ]
    for split, class_name in class_folders:
        (folder / split / class_name).mkdir(parents=True)
    size = sum(file.stat().st_size for file, _ in files)
    with enough_space(folder, size), progress_bar("copying images", len(files)) as progress:
        for file, target in files:
            try:
                str(file).encode()
            except UnicodeEncodeError:  # Python represents bytes that are not UTF-8 by surrogates
                problem = f"the file name {file.name!a} is not UTF-8; rename it"
                raise InputError(f"{name}: {problem}") from None
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(file, target)
            except PermissionError:
                raise InputError(f"{file}: permission denied") from None
            progress.update()


def _write_pngs(
    pixels: np.ndarray, labels: np.ndarray, class_names: list[str], folder: Path
) -> None:
    """Write uint8 (n, height, width) as `<class>/<position>.png`.

    They are not compressed: compressed bytes differ between builds of zlib, and the split of an
    image depends on its bytes.
    """
    for name in class_names:
        (folder / name).mkdir(parents=True)
    width = len(str(len(pixels)))
    with progress_bar("writing images", len(pixels)) as progress:
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            target = folder / class_names[label] / f"{index:0{width}}.png"
            Image.fromarray(image).save(target, compress_level=0)
            progress.update()


def _read_idx(folder: Path, name: str, header_size: int) -> np.ndarray:
    """The uint8 values of an IDX file, plain or gzipped, at any depth below `folder`."""
    plain, packed = next(folder.rglob(name), None), next(folder.rglob(f"{name}.gz"), None)
    if not plain and not packed:
        raise InputError(f"download.source: {folder} has neither {name} nor {name}.gz")
    try:
        content = plain.read_bytes() if plain else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{packed}: {error}") from None
    if hashlib.sha256(content).hexdigest() != FASHION_MNIST_FILES[name]:
        raise InputError(f"{plain or packed}: its content differs from Fashion-MNIST's {name}")
    return np.frombuffer(content, np.uint8, offset=header_size)
