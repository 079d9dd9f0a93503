"""Split the images, and compute their features or pixels: no training parameter changes these."""

from image_classifier.common.script import run_stage

from collections import Counter
from functools import partial
from pathlib import Path

from image_classifier.common.disk import replace_folder, scratch_folder
from image_classifier.common.errors import InputError
from image_classifier.common.params import Params, read_params
from image_classifier.common.progress import progress_bar
from image_classifier.common.raw_data import (
    RAW_DATA,
    RawImage,
    find_images,
    locate,
    write_unreadable,
)
from image_classifier.common.remote import is_remote
from image_classifier.common.stage_inputs import PIPELINE, StageInputs
from image_classifier.common.strict_yaml import shown
from image_classifier.computing.corrections import (
    NAME,
    Correction,
    read_corrections,
    write_corrections,
)
from image_classifier.computing.prepared import (
    CONTRADICTION,
    DUPLICATE,
    EXCLUDED,
    PREPARED,
    SPLITS,
    TABLE,
    UNREADABLE,
    ImageRecord,
    class_names_of,
    create_array,
    locate_image,
    records_of,
    write_table,
)
from image_classifier.preparation import features
from image_classifier.preparation.correcting import find_changes
from image_classifier.preparation.engines import ENGINES, compute_here
from image_classifier.preparation.network import write_network
from image_classifier.preparation.ray_cluster import connect
from image_classifier.preparation.splits import split_images

LEFT_OUT = {
    UNREADABLE: f"cannot be decoded, see {PREPARED}/unreadable.csv",
    DUPLICATE: f"copies of validation or test images, see {DUPLICATE!r} in {TABLE}",
    CONTRADICTION: f"found in more than one class, see {CONTRADICTION!r} in {TABLE}",
    EXCLUDED: f"by corrections, see {EXCLUDED!r} in {TABLE}",
}


def main() -> None:
    inputs = StageInputs("prepare")
    params = read_params()
    file = params.prepare.corrections
    corrections = chosen_corrections(file, inputs) if file else []
    images = find_images(RAW_DATA)
    examined = examine_all(images, params.compute.engine)
    hashes = [result.sha256 for result in examined]
    pairs = zip(images, examined, strict=True)
    reasons = [(image.path, result.reason) for image, result in pairs if result.reason]
    fractions = params.prepare.validation_fraction, params.prepare.test_fraction
    changes = find_changes(file, corrections, images, hashes)
    records = split_images(images, hashes, *fractions, changes.corrections)

    with scratch_folder(Path("data/.prepare")) as scratch:
        folder = scratch / "prepared"
        folder.mkdir()
        write_table(records, folder / TABLE.name)
        if reasons:
            write_unreadable(reasons, folder / "unreadable.csv")
        if changes.corrections:
            write_corrections(changes.corrections, folder / NAME)
        write_arrays(records, folder, params)
        if params.model.frozen:
            class_count = len(class_names_of(records))
            held_out = [locate_image(record) for record in records_of(records, "validation")]
            write_network(params, class_count, held_out, folder)
        inputs.check_unchanged()
        replace_folder(folder, PREPARED)

    counts = Counter(record.split for record in records)
    print(f"{PREPARED}: {', '.join(f'{counts[split]:,} {split}' for split in SPLITS)} images")
    if file:
        print(f"{file}: {_images(changes.relabelled)} relabelled, {changes.excluded:,} left out")
    for split, reason in LEFT_OUT.items():
        if counts[split]:
            print(f"{_images(counts[split])} left out: {reason}")


def chosen_corrections(file: str, inputs: StageInputs) -> list[Correction]:
    """The corrections in the file that `prepare.corrections` names.

    Raises:
        InputError: if the stage does not depend on the file, or the file is missing or damaged.
    """
    allowed = [path for path in inputs.dependencies if path.endswith(".csv")]
    if Path(file) not in map(Path, allowed):
        raise InputError(
            f"prepare.corrections: found {shown(file)}; allowed: null, or a CSV file that stage "
            f"prepare depends on in {PIPELINE}: {', '.join(allowed)}"
        )
    try:
        return read_corrections(Path(file))
    except InputError as error:
        raise InputError(f"prepare.corrections: {error}") from None


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
            for first, part in compute(function, [locate_image(record) for record in rows[split]]):
                if write is None:
                    shape = (*part.shape[:1], len(rows[split]), *part.shape[2:])
                    write = create_array(folder, split, shape, part.dtype)
                write(first, part)
                progress.update(part.shape[0] * part.shape[1])


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


if __name__ == "__main__":
    run_stage(main)
