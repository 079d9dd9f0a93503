"""Split the images, and compute their features or pixels: no training parameter changes these."""

from image_classifier.common.script import run_stage

from collections import Counter
from functools import partial
from pathlib import Path

from image_classifier.common.disk import replace_folder, scratch_folder
from image_classifier.common.params import Params, read_params
from image_classifier.common.progress import progress_bar
from image_classifier.common.raw_data import (
    RAW_DATA,
    RawImage,
    find_images,
    locate,
    write_unreadable,
)
from image_classifier.common.remote import RemoteFile, is_remote
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.computing.prepared import (
    CONTRADICTION,
    DUPLICATE,
    PREPARED,
    SPLITS,
    TABLE,
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

LEFT_OUT = {
    UNREADABLE: f"cannot be decoded, see {PREPARED}/unreadable.csv",
    DUPLICATE: f"copies of validation or test images, see {DUPLICATE!r} in {TABLE}",
    CONTRADICTION: f"found in more than one class, see {CONTRADICTION!r} in {TABLE}",
}


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
        write_table(records, folder / TABLE.name)
        if reasons:
            write_unreadable(reasons, folder / "unreadable.csv")
        write_arrays(records, folder, params)
        inputs.check_unchanged()
        replace_folder(folder, PREPARED)

    counts = Counter(record.split for record in records)
    print(f"{PREPARED}: {', '.join(f'{counts[split]:,} {split}' for split in SPLITS)} images")
    for split, reason in LEFT_OUT.items():
        if counts[split]:
            images = "1 image" if counts[split] == 1 else f"{counts[split]:,} images"
            print(f"{images} left out: {reason}")


def examine_all(images: list[RawImage], engine: str) -> list[features.Examined]:
    """Hash all images, and find images in buckets and at URLs that cannot be decoded."""
    locations = [locate(RAW_DATA, image.path) for image in images]
    # Local files are hashed here, not sent to other machines for it.
    compute = ENGINES[engine] if is_remote(locations[0]) else compute_here
    examined: list[features.Examined | None] = [None] * len(images)
    with progress_bar("hashing images", len(images)) as progress:
        for first, part in compute(features.examine, locations):
            examined[first : first + len(part)] = part
            progress.update(len(part))
    return examined


def write_arrays(records: list[ImageRecord], folder: Path, params: Params) -> None:
    """Write each split's features, or its pixels if the backbone will be trained."""
    compute, weights = ENGINES[params.compute.engine], None
    if params.compute.engine == "ray" and params.model.frozen:
        weights = connect().put(features.backbone_weights(params))  # each machine gets them once
    rows = {split: records_of(records, split) for split in SPLITS}
    views = {"train": params.prepare.views} if params.model.frozen else {}
    # An image with several augmented copies takes as long as that many images.
    total = sum(len(rows[split]) * views.get(split, 1) for split in SPLITS)
    with progress_bar("preparing images", total) as progress:
        for split in SPLITS:
            if params.model.frozen:
                function = partial(features.compute_features, params, split, weights)
            else:
                # Without augmentation: it is part of the training then.
                function = partial(features.compute_pixels, params.prepare)
            write = None
            for first, part in compute(function, [where(record) for record in rows[split]]):
                if write is None:
                    shape = (*part.shape[:1], len(rows[split]), *part.shape[2:])
                    write = create_array(folder, split, shape, part.dtype)
                write(first, part)
                progress.update(part.shape[0] * part.shape[1])


def where(record: ImageRecord) -> str | RemoteFile:
    """The location of an image, with its hash if the image could change in the meantime."""
    if is_remote(record.path):
        return RemoteFile(record.path, record.sha256)
    return locate(RAW_DATA, record.path)


if __name__ == "__main__":
    run_stage(main)
