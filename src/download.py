"""Bring the dataset to data/raw as class folders of pictures that can all be decoded.

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

from image_classifier.class_folders import find_class_folders, find_files
from image_classifier.datasets import DATASETS
from image_classifier.disk import NoSpaceError, replace_folder
from image_classifier.downloads import UnfinishedError
from image_classifier.errors import InputError, run
from image_classifier.images import unreadable_reason
from image_classifier.inputs import StageInputs
from image_classifier.params import read_params
from image_classifier.raw_data import FOLDER as RAW
from image_classifier.raw_data import find_pictures, write_unreadable
from image_classifier.remote import LISTING, is_remote

UNREADABLE = Path("data/unreadable.csv")
SCRATCH = Path("data/.download")  # no output: DVC deletes those before it runs a stage
REPLACED = SCRATCH / "raw.replaced"  # where replace_folder puts the old data


def main() -> None:
    inputs = StageInputs("download")
    params = read_params().download
    with scratch_folder():
        folder = SCRATCH / "raw"
        DATASETS[params.dataset](params, folder, SCRATCH)
        unreadable = remove_unreadable(folder)
        counts = count_pictures(folder, unreadable)
        inputs.check_unchanged()
        replace_raw(folder, unreadable)

    for name, count in counts.items():
        print(f"{count:>8,} {name}")
    if unreadable:
        print(f"{len(unreadable):,} files left out: they cannot be decoded, see {UNREADABLE}")


@contextmanager
def scratch_folder() -> Iterator[None]:
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
        if REPLACED.exists() and not RAW.exists():
            REPLACED.rename(RAW)
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
    """Put a complete folder in the place of `RAW`, and then the list that tells it is complete."""
    listing = SCRATCH / UNREADABLE.name
    write_unreadable(unreadable, listing)
    UNREADABLE.unlink(missing_ok=True)
    replace_folder(folder, RAW)
    listing.rename(UNREADABLE)


def remove_unreadable(folder: Path) -> list[tuple[str, str]]:
    """Delete the files below `folder` that cannot be decoded.

    Returns:
        Path relative to `folder`, and reason, of each, sorted by path.
    """
    paths = [picture.path for picture in find_pictures(folder)]
    files = [folder / path for path in paths if not is_remote(path)]  # others: src/prepare.py
    with ThreadPoolExecutor(cpu_count()) as pool:
        checks = pool.map(unreadable_reason, files)
        reasons = list(tqdm(checks, "checking pictures", len(files), unit="file"))
    unreadable = [(file, reason) for file, reason in zip(files, reasons, strict=True) if reason]
    for file, _ in unreadable:
        file.unlink()
    return [(file.relative_to(folder).as_posix(), reason) for file, reason in unreadable]


def count_pictures(folder: Path, unreadable: list[tuple[str, str]]) -> dict[str, int]:
    """Split and class -> number of pictures left.

    Raises:
        InputError: if a class has none.
    """
    if (folder / LISTING).exists():
        keys = [(picture.split, picture.class_name) for picture in find_pictures(folder)]
        return dict(Counter("/".join(filter(None, key)) for key in keys))
    counts = {
        "/".join(filter(None, key)): len(find_files(class_folder))
        for key, class_folder in find_class_folders(folder).items()
    }
    for name, count in counts.items():
        if not count:
            reasons = [
                f"{path}: {reason}" for path, reason in unreadable if path.startswith(f"{name}/")
            ]
            raise InputError(
                f"download: {name} has no picture that can be decoded "
                f"({reasons[0] if reasons else 'the folder is empty'})"
            )
    return counts


if __name__ == "__main__":
    run(main)
