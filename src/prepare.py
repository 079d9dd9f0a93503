"""Split the images and compute, once, what no training parameter changes: features or pixels."""

from collections import Counter
from functools import partial
from pathlib import Path

from tqdm import tqdm

from image_classifier.common.disk import replace_folder, scratch_folder
from image_classifier.common.params import Params, read_params
from image_classifier.common.raw_data import (
    RAW_DATA,
    RawImage,
    find_images,
    locate,
    write_unreadable,
)
from image_classifier.common.remote import RemoteFile, is_remote
from image_classifier.common.script import run
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.computing.prepared import (
    PREPARED,
    SPLITS,
    UNREADABLE,
    ImageRecord,
    create_array,
    records_of,
    write_table,
)
from image_classifier.preparation import features
from image_classifier.preparation.engines import ENGINES, compute_here
from image_classifier.preparation.ray_cluster import connect
from image_classifier.preparation.splits import split_images


def main() -> None:
    inputs = StageInputs("prepare")
    params = read_params()
    images = find_images(RAW_DATA)
    examined = examine_all(images, params.compute.engine)
    hashes = [result.sha256 for result in examined]
    pairs = zip(images, examined, strict=True)
    reasons = [(image.path, result.reason) for image, result in pairs if result.reason]
    fractions = params.prepare.validation_fraction, params.prepare.test_fraction
    records = split_images(images, hashes, *fractions)

    with scratch_folder(Path("data/.prepare")) as scratch:
        folder = scratch / "prepared"
        folder.mkdir()
        write_table(records, folder / "images.csv")
        if reasons:
            write_unreadable(reasons, folder / "unreadable.csv")
        write_arrays(records, folder, params)
        inputs.check_unchanged()
        replace_folder(folder, PREPARED)

    for split, count in Counter(record.split for record in records).items():
        hint = f", see {PREPARED}/unreadable.csv" if split == UNREADABLE else ""
        print(f"{count:>8,} {split}{hint}")


def examine_all(images: list[RawImage], engine: str) -> list[features.Examined]:
    """Hash all images, and find those elsewhere that cannot be decoded."""
    locations = [locate(RAW_DATA, image.path) for image in images]
    # Those that are here need not be sent around to be hashed.
    compute = ENGINES[engine] if is_remote(locations[0]) else compute_here
    examined: list[features.Examined | None] = [None] * len(images)
    with tqdm(total=len(images), desc="hashing images", unit="image") as progress:
        for first, part in compute(features.examine, locations):
            examined[first : first + len(part)] = part
            progress.update(len(part))
    return examined


def write_arrays(records: list[ImageRecord], folder: Path, params: Params) -> None:
    """Write features or pixels of each split: the latter if the backbone will be trained."""
    compute, weights = ENGINES[params.compute.engine], None
    if params.compute.engine == "ray" and params.model.frozen:
        weights = connect().put(features.backbone_weights(params))  # sent to each machine once
    for split in SPLITS:
        rows = records_of(records, split)
        if params.model.frozen:
            function = partial(features.compute_features, params, split, weights)
        else:
            function = partial(features.compute_pixels, params.prepare)  # training augments them
        write = None
        with tqdm(total=len(rows), desc=f"preparing {split}", unit="image") as progress:
            for first, part in compute(function, [where(record) for record in rows]):
                if write is None:
                    shape = (*part.shape[:1], len(rows), *part.shape[2:])
                    write = create_array(folder, split, shape, part.dtype)
                write(first, part)
                progress.update(part.shape[1])


def where(record: ImageRecord) -> str | RemoteFile:
    """The location of an image, with its hash if it could change meanwhile."""
    if is_remote(record.path):
        return RemoteFile(record.path, record.sha256)
    return locate(RAW_DATA, record.path)


if __name__ == "__main__":
    run(main)
