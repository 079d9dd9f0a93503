"""Split the pictures and compute, once, what no training parameter changes: features or pixels."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_classifier.disk import replace_folder, scratch_folder
from image_classifier.errors import run
from image_classifier.images import PILLOW_MODES, load_batches
from image_classifier.inputs import StageInputs
from image_classifier.params import Params, PrepareParams, read_params
from image_classifier.prepared import FOLDER, create_array
from image_classifier.splits import SPLITS, ImageRecord, records_of, split_images, write_table

RAW = Path("data/raw")
BATCH_SIZE = 64


def main() -> None:
    inputs = StageInputs("prepare")
    params = read_params()
    records = split_images(RAW, params.prepare.validation_fraction, params.prepare.test_fraction)

    with scratch_folder(Path("data/.prepare")) as scratch:
        folder = scratch / "prepared"
        folder.mkdir()
        write_table(records, folder / "images.csv")
        if params.model.frozen:
            write_features(records, folder, params)
        else:
            write_pixels(records, folder, params.prepare)
        inputs.check_unchanged()
        replace_folder(folder, FOLDER)

    for split, count in Counter(record.split for record in records).items():
        print(f"{count:>8,} {split}")


def write_pixels(records: list[ImageRecord], folder: Path, params: PrepareParams) -> None:
    """Write the decoded pictures of each split: augmentation happens in training."""
    shape = (params.image_size, params.image_size, len(PILLOW_MODES[params.color_mode]))
    for split in SPLITS:
        rows = records_of(records, split)
        write = create_array(folder, split, (1, len(rows), *shape), np.uint8)
        for position, pixels in decoded(rows, split, params):
            write(0, position, pixels)


def write_features(records: list[ImageRecord], folder: Path, params: Params) -> None:
    """Write what the frozen backbone makes of each picture.

    That is `prepare.views` augmented copies of a training picture and a plain one of any other.
    """
    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.augmentation import build_augmentation
    from image_classifier.backbones import build_feature_extractor
    from image_classifier.inference import build_function
    from image_classifier.tensorflow_setup import make_deterministic, tf

    make_deterministic(params.prepare.seed)
    channels = len(PILLOW_MODES[params.prepare.color_mode])
    extractor = build_feature_extractor(params.model, params.prepare.image_size, channels)
    extract = build_function(extractor)
    augmentation = build_augmentation(params.prepare, channels)

    @tf.function(reduce_retracing=True)
    def augment(pixels: tf.Tensor) -> tf.Tensor:
        return augmentation(tf.cast(pixels, tf.float32), training=True)

    for split in SPLITS:
        rows = records_of(records, split)
        views = params.prepare.views if split == "train" else 1
        write = create_array(
            folder, split, (views, len(rows), extractor.output_shape[-1]), np.float32
        )
        for position, pixels in decoded(rows, split, params.prepare):
            for view in range(views):
                changed = augment(pixels).numpy() if split == "train" else pixels
                write(view, position, extract(changed))


def decoded(
    records: list[ImageRecord], split: str, params: PrepareParams
) -> Iterator[tuple[slice, np.ndarray]]:
    """Decode pictures in batches, with a progress bar.

    Yields:
        Their place among `records`, and uint8 (n, image_size, image_size, channels).
    """
    paths = [f"{RAW}/{record.path}" for record in records]  # a fifth of the memory of objects
    start = 0
    with tqdm(total=len(paths), desc=f"preparing {split}", unit="picture") as progress:
        for batch in load_batches(paths, BATCH_SIZE, params.image_size, params.color_mode):
            yield slice(start, start + len(batch)), batch
            start += len(batch)
            progress.update(len(batch))


if __name__ == "__main__":
    run(main)
