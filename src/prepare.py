"""Split the pictures and compute, once, what no training parameter changes: features or pixels."""

from collections import Counter
from functools import partial
from pathlib import Path

from tqdm import tqdm

from image_classifier.disk import replace_folder, scratch_folder
from image_classifier.engines import ENGINES, compute_here, share
from image_classifier.errors import run
from image_classifier.features import (
    Examined,
    backbone_weights,
    compute_features,
    compute_pixels,
    examine,
)
from image_classifier.inputs import StageInputs
from image_classifier.params import Params, read_params
from image_classifier.prepared import FOLDER, create_array
from image_classifier.raw_data import FOLDER as RAW
from image_classifier.raw_data import Picture, find_pictures, locate, write_unreadable
from image_classifier.remote import RemoteFile, is_remote
from image_classifier.splits import (
    SPLITS,
    UNREADABLE,
    ImageRecord,
    records_of,
    split_images,
    write_table,
)


def main() -> None:
    inputs = StageInputs("prepare")
    params = read_params()
    pictures = find_pictures(RAW)
    examined = examine_all(pictures, params.prepare.engine)
    records = split_images(
        pictures,
        [result.sha256 for result in examined],
        params.prepare.validation_fraction,
        params.prepare.test_fraction,
    )
    unreadable = [
        (picture.path, result.reason)
        for picture, result in zip(pictures, examined, strict=True)
        if result.reason
    ]

    with scratch_folder(Path("data/.prepare")) as scratch:
        folder = scratch / "prepared"
        folder.mkdir()
        write_table(records, folder / "images.csv")
        if unreadable:
            write_unreadable(unreadable, folder / "unreadable.csv")
        write_arrays(records, folder, params)
        inputs.check_unchanged()
        replace_folder(folder, FOLDER)

    for split, count in Counter(record.split for record in records).items():
        reasons = f", see {FOLDER}/unreadable.csv" if split == UNREADABLE else ""
        print(f"{count:>8,} {split}{reasons}")


def examine_all(pictures: list[Picture], engine: str) -> list[Examined]:
    """Hash all pictures, and find those elsewhere that cannot be decoded."""
    locations = [locate(RAW, picture.path) for picture in pictures]
    # Those that are here need not be sent around to be hashed.
    compute = ENGINES[engine] if is_remote(locations[0]) else compute_here
    examined: list[Examined | None] = [None] * len(pictures)
    with tqdm(total=len(pictures), desc="hashing pictures", unit="picture") as progress:
        for first, part in compute(examine, locations):
            examined[first : first + len(part)] = part
            progress.update(len(part))
    return examined


def write_arrays(records: list[ImageRecord], folder: Path, params: Params) -> None:
    """Write features or pixels of each split: the latter if the backbone will be trained."""
    compute, weights = ENGINES[params.prepare.engine], None
    if params.prepare.engine == "ray" and params.model.frozen:
        weights = share(backbone_weights(params))
    for split in SPLITS:
        rows = records_of(records, split)
        if params.model.frozen:
            function = partial(compute_features, params, split, weights)
        else:
            function = partial(compute_pixels, params.prepare)  # training augments them
        write = None
        with tqdm(total=len(rows), desc=f"preparing {split}", unit="picture") as progress:
            for first, part in compute(function, [where(record) for record in rows]):
                if write is None:
                    shape = (*part.shape[:1], len(rows), *part.shape[2:])
                    write = create_array(folder, split, shape, part.dtype)
                write(first, part)
                progress.update(part.shape[1])


def where(record: ImageRecord) -> str | RemoteFile:
    """The location of a picture, with its hash if it could change meanwhile."""
    if is_remote(record.path):
        return RemoteFile(record.path, record.sha256)
    return locate(RAW, record.path)


if __name__ == "__main__":
    run(main)
