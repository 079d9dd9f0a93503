"""Download the dataset to data/raw: class folders of images that can all be decoded.

Images in a bucket or in a list of URLs are not copied: data/raw then holds a list of their
addresses, and src/prepare.py reads the images from there.
"""

from image_classifier.common.script import run_stage

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path

from filelock import FileLock, Timeout

from image_classifier.common.class_folders import SPLIT_NAMES, find_class_folders
from image_classifier.common.disk import NoSpaceError, replace_folder
from image_classifier.common.errors import InputError
from image_classifier.common.images import unreadable_reason
from image_classifier.common.params import read_params
from image_classifier.common.progress import track
from image_classifier.common.raw_data import RAW_DATA, find_images, write_unreadable
from image_classifier.common.remote import LISTING, is_remote
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.sources.datasets import DATASETS
from image_classifier.sources.downloads import UnfinishedError

UNREADABLE_LIST = Path("data/unreadable.csv")
SCRATCH = Path("data/.download")  # not a DVC output: DVC deletes those before a stage runs
REPLACED = SCRATCH / "raw.replaced"  # replace_folder moves the old data here


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

    print(f"{RAW_DATA}: {describe(counts)}")
    if unreadable:
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
        print(f"{files} left out because they cannot be decoded: see {UNREADABLE_LIST}")


@contextmanager
def held_scratch() -> Iterator[None]:
    """Lock `SCRATCH` and clear leftovers of killed runs, except partial downloads.

    Partial downloads survive network and disk errors. They are deleted on success, or if their
    content is invalid, so that the next run downloads the file again.

    Raises:
        InputError: if another run holds the lock.
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
    """Replace `RAW_DATA` by a complete folder, then write the list that marks it as complete."""
    listing = SCRATCH / UNREADABLE_LIST.name
    write_unreadable(unreadable, listing)
    UNREADABLE_LIST.unlink(missing_ok=True)
    replace_folder(folder, RAW_DATA)
    listing.rename(UNREADABLE_LIST)


def remove_unreadable(folder: Path) -> list[tuple[str, str]]:
    """Delete the images in `folder` that cannot be decoded; return their paths and the reasons."""
    # src/prepare.py checks images in buckets and at URLs.
    paths = [image.path for image in find_images(folder) if not is_remote(image.path)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        checks = pool.map(unreadable_reason, [folder / path for path in paths])
        reasons = list(track(checks, "checking images", len(paths)))
    unreadable = [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]
    for path, _ in unreadable:
        (folder / path).unlink()
    return unreadable


def count_images(folder: Path, unreadable: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Count the images left of each split ("" if the dataset has no splits) and class.

    Raises:
        InputError: if a class has no image.
    """
    found = Counter((image.split, image.class_name) for image in find_images(folder))
    keys = found if (folder / LISTING).exists() else find_class_folders(folder)
    for key in keys:
        if not found[key]:
            name = "/".join(filter(None, key))
            reasons = [": ".join(row) for row in unreadable if row[0].startswith(f"{name}/")]
            raise InputError(
                f"download: {name} has no image that can be decoded "
                f"({reasons[0] if reasons else 'the folder is empty'})"
            )
    return {key: found[key] for key in keys}


def describe(counts: dict[tuple[str, str], int]) -> str:
    """Summarise the output of `count_images`, such as "1,797 images in 10 classes"."""
    images: Counter[str] = Counter()
    for (split, _), count in counts.items():
        images[split] += count
    class_count = len({class_name for _, class_name in counts})
    summary = f"{images.total():,} images in {class_count:,} classes"
    splits = dict.fromkeys(SPLIT_NAMES.values())
    sizes = ", ".join(f"{images[split]:,} {split}" for split in splits if images[split])
    return f"{summary} ({sizes})" if sizes else summary


if __name__ == "__main__":
    run_stage(main)
