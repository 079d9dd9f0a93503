"""Bring the dataset to data/raw as class folders of images that can all be decoded.

Of one in a bucket, or in a list of URLs, data/raw becomes a list: src/prepare.py reads from there.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from image_classifier.common.class_folders import find_class_folders
from image_classifier.common.disk import NoSpaceError, replace_folder
from image_classifier.common.errors import InputError
from image_classifier.common.images import unreadable_reason
from image_classifier.common.params import read_params
from image_classifier.common.raw_data import RAW_DATA, find_images, write_unreadable
from image_classifier.common.remote import LISTING, is_remote
from image_classifier.common.script import run
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.sources.datasets import DATASETS
from image_classifier.sources.downloads import UnfinishedError

UNREADABLE_LIST = Path("data/unreadable.csv")
SCRATCH = Path("data/.download")  # no output: DVC deletes those before it runs a stage
REPLACED = SCRATCH / "raw.replaced"  # where replace_folder puts the old data


def main() -> None:
    inputs = StageInputs("download")
    params = read_params().download
    with held_scratch():
        folder = SCRATCH / "raw"
        DATASETS[params.dataset](params, folder, SCRATCH)
        unreadable = remove_unreadable(folder)
        counts = count_images(folder, unreadable)
        inputs.check_unchanged()
        replace_raw(folder, unreadable)

    for name, count in counts.items():
        print(f"{count:>8,} {name}")
    if unreadable:
        print(f"{len(unreadable):,} files left out: they cannot be decoded, see {UNREADABLE_LIST}")


@contextmanager
def held_scratch() -> Iterator[None]:
    """Hold `SCRATCH` for this run alone, with nothing left in it of killed runs but downloads.

    They stay when the network or the disk fails; a success or other contents than allowed removes
    them, so that the next run fetches anew.

    Raises:
        InputError: if another run holds it.
    """
    SCRATCH.mkdir(exist_ok=True)
    try:
        lock = FileLock(SCRATCH / "lock", blocking=False).acquire()
    except Timeout:
        raise InputError(f"{SCRATCH}: another src/download.py is running; wait for it") from None
    with lock:
        if REPLACED.exists() and not RAW_DATA.exists():
            REPLACED.rename(RAW_DATA)
        for path in SCRATCH.iterdir():
            if path.is_dir() and path != SCRATCH / "downloaded":
                shutil.rmtree(path)
        try:
            yield
        except InputError as error:
            if not isinstance(error, UnfinishedError | NoSpaceError):
                shutil.rmtree(SCRATCH)
            raise
        shutil.rmtree(SCRATCH)


def replace_raw(folder: Path, unreadable: list[tuple[str, str]]) -> None:
    """Put a complete folder in the place of `RAW_DATA`, then the list that says it is complete."""
    listing = SCRATCH / UNREADABLE_LIST.name
    write_unreadable(unreadable, listing)
    UNREADABLE_LIST.unlink(missing_ok=True)
    replace_folder(folder, RAW_DATA)
    listing.rename(UNREADABLE_LIST)


def remove_unreadable(folder: Path) -> list[tuple[str, str]]:
    """Delete the images in `folder` that cannot be decoded, and return their paths and reasons."""
    # Those that are elsewhere are checked by src/prepare.py.
    paths = [image.path for image in find_images(folder) if not is_remote(image.path)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        checks = pool.map(unreadable_reason, [folder / path for path in paths])
        reasons = list(tqdm(checks, "checking images", len(paths), unit="file"))
    unreadable = [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]
    for path, _ in unreadable:
        (folder / path).unlink()
    return unreadable


def count_images(folder: Path, unreadable: list[tuple[str, str]]) -> dict[str, int]:
    """Split and class -> number of images left.

    Raises:
        InputError: if a class has none.
    """
    found = Counter((image.split, image.class_name) for image in find_images(folder))
    keys = found if (folder / LISTING).exists() else find_class_folders(folder)
    counts = {"/".join(filter(None, key)): found[key] for key in keys}
    for name, count in counts.items():
        if not count:
            reasons = [": ".join(row) for row in unreadable if row[0].startswith(f"{name}/")]
            raise InputError(
                f"download: {name} has no image that can be decoded "
                f"({reasons[0] if reasons else 'the folder is empty'})"
            )
    return counts


if __name__ == "__main__":
    run(main)
