"""11. Planted mistakes that src/review.py finds, the effect of correcting them, and its time.

python benchmarks/review.py /path/to/cats_and_dogs_filtered.zip
"""

import csv
import json
import os
import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median

import numpy as np
from dvc.utils.hydra import apply_overrides
from measure import (
    Finished,
    make_project,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)
from PIL import Image, ImageEnhance, ImageOps

from image_classifier.common.raw_data import RAW_DATA
from image_classifier.computing.corrections import Correction, write_corrections
from image_classifier.computing.prepared import (
    PREPARED,
    TABLE,
    ImageRecord,
    class_names_of,
    create_array,
    read_table,
    records_of,
    write_table,
)

SHARES = (0.02, 0.05, 0.1)  # of the training labels
MOST = SHARES[-1]
SEEDS = range(3)
COPIES = 50  # of each kind
KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: ImageOps.scale(image, 0.5),
    "cropped by 5%": lambda image: image.crop(
        (round(0.05 * image.width), round(0.05 * image.height), *image.size)
    ),
    "mirrored": ImageOps.mirror,
    "JPEG quality 30": lambda image: image,
    "30% brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
}
BLOCKS = {"train": 80, "validation": 10, "test": 10}  # of made images
BLOCK = 1_000
FEATURES, CLASSES, CLUSTERS = 1_280, 10, 20  # clusters of each class
LINKED = 300  # photos


def main() -> None:
    photos = read_arguments(__doc__.splitlines()[0], rounds=None).photos
    with temporary_folder() as folder:
        project = make_project(folder / "preset", "cats_and_dogs", photos)
        run(["dvc", "exp", "run"], project)
        records = read_table(project / TABLE)
        lines = [
            *measure_labels(project, records),
            "",
            *measure_corrections(project, records, folder),
            "",
            *measure_duplicates(project, records, folder / "duplicates"),
            "",
            *measure_growth(project, records, folder / "made"),
        ]
    write_section("11. Review of the data", lines)


def measure_labels(project: Path, records: list[ImageRecord]) -> list[str]:
    """Flip labels, and compare them with those that are found."""
    _, real, _ = review(project)
    rows = []
    for share in SHARES:
        measured = []
        for seed in SEEDS:
            flipped = flip(records, share, seed)
            set_labels(project, records, flipped)
            done, found, _ = review(project)
            right = len(flipped.keys() & found.keys())
            figures = len(found), right / len(flipped), right / len(found), done.seconds
            print(share, seed, *figures, flush=True)
            measured.append(figures)
        found, recall, precision, seconds = zip(*measured, strict=True)
        figures = spread(found, ".0f"), spread(recall, ".3f"), spread(precision, ".3f")
        rows.append([f"{share:.0%}", len(flipped), *figures, f"{median(seconds):.1f}"])
    return [
        *table(["labels flipped", "", "found", "recall", "precision", "seconds"], rows),
        "",
        f"presets/cats_and_dogs.yaml; {len(records_of(records, 'train')):,} training photos, some "
        "with the label of the other class. Labels change neither features nor splits: the preset "
        "runs once, and labels are flipped in data/prepared/images.csv, of training photos only. "
        "*Found* are the findings `label` about training photos, *recall* is the share of the "
        "flipped labels among them, *precision* the share of the findings that were flipped. "
        f"Without flips there are {len(real)} findings ({', '.join(sorted(real))}); they count as "
        "wrong here. Seconds of the whole command `python src/review.py`. Means of "
        f"{len(SEEDS)} seeds with the range; medians of the seconds.",
    ]


def measure_corrections(project: Path, records: list[ImageRecord], folder: Path) -> list[str]:
    """Test accuracy with flipped labels, with all suggestions applied, and with true labels."""
    accuracies, wrong = defaultdict(list), defaultdict(list)
    for seed in SEEDS:
        flipped = flip(records, MOST, seed)
        set_labels(project, records, flipped)
        corrected = flipped | review(project)[1]
        names = f"{MOST:.0%} flipped", "all suggestions applied", "true labels"
        for name, labels in zip(names, (flipped, corrected, {}), strict=True):
            changed = set_labels(project, records, labels)
            wrong[name].append(changed)
            accuracies[name].append(train(project, seed))
            print(name, seed, changed, accuracies[name][-1], flush=True)
    rows = []
    for name, figures in accuracies.items():
        shown = [f"{figure:.3f}" for figure in (*figures, fmean(figures))]
        rows.append([name, spread(wrong[name], ".0f"), *shown])
    names = f"{MOST:.0%} in the wrong folder", "corrections.csv applied"
    for name, accuracy in zip(names, measure_files(project, records, folder), strict=True):
        rows.append([name, "", f"{accuracy:.3f}", *[""] * len(SEEDS)])
    return [
        *table(["", "wrong labels", *(f"seed {seed}" for seed in SEEDS), "mean"], rows),
        "",
        f"Accuracy on the {len(records_of(records, 'test')):,} test photos, whose labels stay; "
        "`train.seed` is the seed of the flips. *All suggestions* for training photos are applied, "
        "without a look at them. The last two rows repeat this with the commands that a user "
        "gives: photos are moved to the folder of the other class; `dvc exp run`; `python "
        "src/review.py`; and with corrections.csv, made from review.csv, `dvc exp run -S "
        "prepare.corrections=corrections.csv`.",
    ]


def measure_files(project: Path, records: list[ImageRecord], folder: Path) -> tuple[float, float]:
    """Test accuracy with photos in the folder of the wrong class, before and after corrections."""
    photos = folder / "photos in wrong folders"
    shutil.copytree(project / RAW_DATA, photos)
    folders = class_folders(records)
    for number, (path, label) in enumerate(flip(records, MOST, SEEDS[0]).items()):
        (photos / path).rename(photos / folders[label] / f"moved-{number}{Path(path).suffix}")
    wrong = make_project(folder / "wrong folders", "cats_and_dogs", photos)
    run(["dvc", "exp", "run"], wrong)
    before = test_accuracy(wrong)
    _, found, _ = review(wrong)
    corrections = [
        Correction(record.sha256, record.path, found[record.path])
        for record in read_table(wrong / TABLE)
        if record.path in found
    ]
    write_corrections(corrections, wrong / "corrections.csv")
    run(["dvc", "exp", "run", "-S", "prepare.corrections=corrections.csv"], wrong)
    print("in files", before, len(corrections), test_accuracy(wrong), flush=True)
    return before, test_accuracy(wrong)


def measure_duplicates(project: Path, records: list[ImageRecord], folder: Path) -> list[str]:
    """Add changed copies of photos, and compare them with the near duplicates that are found."""
    photos = folder / "photos"
    shutil.copytree(project / RAW_DATA, photos)
    planted = make_copies(photos, records)
    copies = make_project(folder / "project", "cats_and_dogs", photos)
    for stage in ("download", "prepare"):
        script(copies, stage)
    _, _, found = review(copies)
    counts = Counter(planted[pair] for pair in found & planted.keys())
    others = sorted(" and ".join(sorted(pair)) for pair in found - planted.keys())
    print(*counts.items(), *others, sep="\n", flush=True)
    rows = [[kind, COPIES, counts[kind]] for kind in KINDS]
    return [
        *table(["changed copies", "", "found"], [*rows, ["all", len(planted), counts.total()]]),
        "",
        f"{len(planted)} of the photos, from all splits; a changed copy of each is added to the "
        f"training photos. Other pairs found: {', '.join([str(len(others)), *others])}.",
    ]


def measure_growth(project: Path, records: list[ImageRecord], folder: Path) -> list[str]:
    """Time and memory with many images, whose features are made."""
    made = make_project(folder, "cats_and_dogs", project / RAW_DATA)
    chosen = records[:: max(1, len(records) // LINKED)]
    photos = [project / RAW_DATA / record.path for record in chosen]
    mislabelled, pairs = make_data(made, photos)
    done, labels, near = review(made)
    print(done.output, flush=True)
    row = [
        f"{BLOCK * sum(BLOCKS.values()):,} images",
        f"{done.seconds:,.0f}",
        f"{done.peak_bytes / 2**20:,.0f}",
        f"{len(mislabelled & labels.keys()):,} of {len(mislabelled):,}",
        f"{len(pairs & near)} of {len(pairs)}",
    ]
    return [
        *table(["", "seconds", "peak memory, MiB", "planted labels", "planted pairs"], [row]),
        "",
        f"Features are made: {FEATURES:,} numbers, {CLUSTERS} clusters in each of {CLASSES} "
        f"classes. The files are hard links to {len(photos)} of the photos: their quality is "
        "measured for each link, but they are read from memory. Besides the planted mistakes, "
        f"{len(labels.keys() - mislabelled):,} labels and {len(near - pairs):,} pairs are found. "
        "Measured once.",
    ]


def make_data(project: Path, photos: Sequence[Path]) -> tuple[set[str], set[frozenset[str]]]:
    """Make data/raw and data/prepared; return the wrong labels' paths, and the near duplicates."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLASSES * CLUSTERS, FEATURES), np.float32)
    (project / PREPARED).mkdir()
    for label in range(CLASSES):
        (project / RAW_DATA / f"class {label}").mkdir(parents=True)
    records, mislabelled, pairs = [], set(), set()
    for split, blocks in BLOCKS.items():
        shape = (1, blocks * BLOCK, FEATURES)
        write = create_array(project / PREPARED, split, shape, np.float32)
        for block in range(blocks):
            clusters = generator.integers(len(centres), size=BLOCK)
            features = generator.standard_normal((BLOCK, FEATURES), np.float32)
            features = centres[clusters] + 0.7 * features
            # The second image of each block is a near duplicate of the first.
            clusters[1], features[1] = clusters[0], features[0] + 0.05 * features[1]
            labels = clusters % CLASSES
            wrong = np.arange(5, BLOCK, 100)
            labels[wrong] = (labels[wrong] + generator.integers(1, CLASSES, len(wrong))) % CLASSES
            write(block * BLOCK, features[np.newaxis])
            paths = [f"class {label}/{len(records) + row}.jpg" for row, label in enumerate(labels)]
            for path in paths:
                os.link(photos[len(records) % len(photos)], project / RAW_DATA / path)
                name, digest = path.partition("/")[0], sha256(path.encode()).hexdigest()
                records.append(ImageRecord(path, name, split, digest))
            pairs.add(frozenset(paths[:2]))
            if split == "train":
                mislabelled.update(paths[row] for row in wrong)
    write_table(records, project / TABLE)
    return mislabelled, pairs


def make_copies(photos: Path, records: Sequence[ImageRecord]) -> dict[frozenset[str], str]:
    """Add changed copies to the training photos; return the kind of each pair of paths."""
    folders = class_folders(records)
    chosen = random.Random(0).sample(records, COPIES * len(KINDS))
    planted = {}
    for number, record in enumerate(chosen):
        kind, change = list(KINDS.items())[number // COPIES]
        copy = folders[record.class_name] / f"copy-{number}.jpg"
        with Image.open(photos / record.path) as image:
            quality = 30 if kind == "JPEG quality 30" else 90
            change(image.convert("RGB")).save(photos / copy, quality=quality)
        planted[frozenset((record.path, copy.as_posix()))] = kind
    return planted


def class_folders(records: Sequence[ImageRecord]) -> dict[str, Path]:
    """A folder in data/raw with training photos, for each class."""
    return {record.class_name: Path(record.path).parent for record in records_of(records, "train")}


def flip(records: Sequence[ImageRecord], share: float, seed: int) -> dict[str, str]:
    """Path -> wrong class, of a share of the training images."""
    names, generator = class_names_of(records), random.Random(seed)
    training = records_of(records, "train")
    return {
        path: generator.choice([name for name in names if name != class_name])
        for path, class_name, *_ in generator.sample(training, round(share * len(training)))
    }


def set_labels(project: Path, records: Sequence[ImageRecord], labels: dict[str, str]) -> int:
    """Write the table with other labels for some paths; return how many differ from the true."""
    others = [
        record._replace(class_name=labels.get(record.path, record.class_name)) for record in records
    ]
    write_table(others, project / TABLE)
    return sum(record != other for record, other in zip(records, others, strict=True))


def review(project: Path) -> tuple[Finished, dict[str, str], set[frozenset[str]]]:
    """Run src/review.py.

    Returns:
        Its time and memory; path -> suggested class of training images; pairs of near duplicates.
    """
    done = script(project, "review")
    with (project / "review.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = {
        row["path"]: row["suggested"]
        for row in rows
        if row["finding"] == "label" and row["split"] == "train"
    }
    near = (row for row in rows if row["finding"] == "near_duplicate")
    return done, labels, {frozenset((row["path"], row["suggested"])) for row in near}


def train(project: Path, seed: int) -> float:
    """Train on the prepared images, and return the accuracy on the test images."""
    apply_overrides(project / "params.yaml", [f"train.seed={seed}"])
    for stage in ("train", "evaluate"):
        script(project, stage)
    return test_accuracy(project)


def test_accuracy(project: Path) -> float:
    metrics = json.loads((project / "dvclive/evaluate/metrics.json").read_text())
    return metrics["test"]["accuracy"]


def script(project: Path, name: str) -> Finished:
    return run([sys.executable, f"src/{name}.py"], project, DVC_ROOT=str(project))


def spread(figures: Sequence[float], form: str) -> str:
    """The mean, and the smallest and the largest figure."""
    mean, low, high = (format(pick(figures), form) for pick in (fmean, min, max))
    return f"{mean} ({low} to {high})" if low != high else mean


if __name__ == "__main__":
    main()
