"""Bring the dataset to data/raw as class folders of pictures that can all be decoded."""

import csv
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from tqdm import tqdm

from image_classifier.class_folders import find_class_folders, find_files
from image_classifier.datasets import DATASETS
from image_classifier.errors import InputError, run
from image_classifier.images import unreadable_reason
from image_classifier.params import read_params

RAW = Path("data/raw")
UNREADABLE = Path("data/unreadable.csv")


def main() -> None:
    params = read_params().download
    with tempfile.TemporaryDirectory(dir="data", prefix=".download-") as scratch:
        folder = Path(scratch, "raw")
        DATASETS[params.dataset](params, folder, Path(scratch))
        unreadable = remove_unreadable(folder)
        counts = count_pictures(folder, unreadable)

        if RAW.exists():
            shutil.rmtree(RAW)
        folder.rename(RAW)
    with UNREADABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *unreadable])

    for name, count in counts.items():
        print(f"{count:>8,} {name}")
    if unreadable:
        print(f"{len(unreadable):,} files left out: they cannot be decoded, see {UNREADABLE}")


def remove_unreadable(folder: Path) -> list[tuple[str, str]]:
    """Delete the files below `folder` that cannot be decoded.

    Returns:
        Path relative to `folder`, and reason, of each, sorted by path.
    """
    files = find_files(folder)
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
