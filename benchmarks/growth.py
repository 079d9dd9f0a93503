"""6. Time and memory of prepare and train for growing numbers of images.

python benchmarks/growth.py /path/to/cats_and_dogs_filtered.zip
"""

import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from dvc.utils.hydra import apply_overrides
from measure import make_project, read_arguments, run, table, temporary_folder, write_section
from PIL import Image, ImageEnhance

COUNTS = (1_000, 10_000, 100_000)
SIDE = 128  # pixels of the generated images
SMALLER = 96  # pixels to which prepare scales them
NETWORKS = {  # with enough epochs for a stable time
    "efficientnet_lite0": [
        "model.backbone=efficientnet_lite0",
        f"prepare.image_size={SMALLER}",
        "train.epochs=15",
    ],
    "cnn": ["model.backbone=cnn", "prepare.image_size=32", "train.epochs=3"],
}


def main() -> None:
    arguments = read_arguments(__doc__.splitlines()[0], rounds=None)
    with temporary_folder() as folder:
        sources = unpack(arguments.photos, folder / "photos")
        measured = {}
        for count in COUNTS:
            images = folder / f"{count} images"
            make_images(sources, images, count)
            quick = {"train__log_images": 0, "prepare__views": 1}
            project = make_project(folder / f"{count}", "cats_and_dogs", images, **quick)
            run([sys.executable, "src/download.py"], project)
            for network, changes in NETWORKS.items():
                apply_overrides(project / "params.yaml", changes)
                for stage in ("prepare", "train"):
                    done = run([sys.executable, f"src/{stage}.py"], project, DVC_ROOT=str(project))
                    seconds = done.seconds if stage == "prepare" else epoch_seconds(project)
                    measured[network, stage, count] = seconds, done.peak_bytes / 2**20
                    print(network, stage, count, measured[network, stage, count], flush=True)
    write_section("6. Growth", [*table(HEADER, list(rows_of(measured))), "", NOTE])


HEADER = ["", *(f"{count:,}" for count in COUNTS), "more memory", "ms per further image", "ratio"]
NOTE = (
    f"Different images of {SIDE}x{SIDE}, made from the photos by small changes; prepare scales "
    f"them to {SMALLER}x{SMALLER} (cnn: 32x32). Seconds of the whole prepare and of an epoch of "
    "train with its validation, and the peak resident memory of the process. *ms per further "
    "image* divides the difference in time by the difference in number, between the first and "
    "second column and between the second and third; the last column is the ratio of these two. "
    "Measured once."
)


def epoch_seconds(project: Path) -> float:
    """The median time of the epochs after the first."""
    path = project / "dvclive/system/plots/metrics/epoch_seconds.tsv"
    lines = path.read_text().splitlines()
    column = lines[0].split("\t").index("epoch_seconds")
    return median([float(line.split("\t")[column]) for line in lines[2:]])


def rows_of(measured: dict) -> Iterator[list[str]]:
    """Yield a row for each network and stage."""
    for network in NETWORKS:
        for stage in ("prepare", "train"):
            figures = [measured[network, stage, count] for count in COUNTS]
            costs = [
                1000 * (after[0] - before[0]) / (more - fewer)
                for (before, fewer), (after, more) in pairwise(zip(figures, COUNTS, strict=True))
            ]
            yield [
                f"{stage}, {network}",
                *(f"{seconds:,.1f} s, {memory:,.0f} MiB" for seconds, memory in figures),
                f"{figures[-1][1] / figures[0][1] - 1:+.0%}",
                " and ".join(f"{cost:.2f}" for cost in costs),
                f"{costs[1] / costs[0]:.2f}",
            ]


def unpack(photos: Path, folder: Path) -> list[Path]:
    """Find the images of a folder or a zip archive, which is unpacked to `folder`."""
    if photos.is_file():
        with zipfile.ZipFile(photos) as archive:
            archive.extractall(folder)
        photos = folder
    return sorted(path for path in photos.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))


def make_images(sources: list[Path], folder: Path, count: int) -> None:
    """Write `count` different images, in two class folders."""
    chosen = sources[:: max(1, len(sources) // count)][:count]
    copies = -(-count // len(chosen))
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        jobs = enumerate(chosen)
        list(pool.map(partial(make_copies, folder, copies), jobs, chunksize=20))


def make_copies(folder: Path, copies: int, job: tuple[int, Path]) -> None:
    """Write one photo `copies` times, each a little brighter, to the class for its number."""
    number, source = job
    with Image.open(source) as image:
        image.draft("RGB", (SIDE, SIDE))
        small = image.convert("RGB").resize((SIDE, SIDE))
    target = folder / ("one", "two")[number % 2]
    for copy in range(copies):
        changed = ImageEnhance.Brightness(small).enhance(0.7 + 0.6 * copy / copies)
        changed.save(target / f"{number}-{copy}.jpg", quality=85)


if __name__ == "__main__":
    main()
