"""12. Photos that are decoded a second by this repository and by tf.data, on one and two cores.

python benchmarks/input_path.py /path/to/cats_and_dogs_filtered.zip
"""

import json
import os
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from measure import (
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)

IMAGE_SIZE = 180
BATCH_SIZE = 256
PASSES = 2  # over the photos
WAYS = ("tf.data", "threads", "processes")
CORES = (1, 2)


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] in WAYS:
        decode(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        return
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    rows = []
    with temporary_folder() as folder:
        project = make_project(folder / "project", "cats_and_dogs", arguments.photos)
        run(["dvc", "repro", "download"], project)
        for cores in CORES[: len(os.sched_getaffinity(0))]:
            rows += measure(project / "data/raw", cores, arguments.rounds)
    write_section(
        "12. Input path",
        [
            *table(["", "photos a second", "ratio", "CPU ms a photo", "cores busy"], rows),
            "",
            f"Photos from JPEGs in memory to batches of {BATCH_SIZE}, {IMAGE_SIZE}x{IMAGE_SIZE}, "
            "without a network. *tf.data* is `keras.utils.image_dataset_from_directory`, which "
            "decodes in full and scales without antialiasing. *Threads* and *processes* are the "
            "two ways of src/image_classifier/common/decoding.py, which decode with Pillow; by "
            "default threads are used on up to 3 cores. *Cores busy* is the CPU time relative to "
            "the seconds on all cores. The ways alternate, each in its own process; medians of "
            f"{arguments.rounds} rounds, ratios within a round.",
        ],
    )


def measure(photos: Path, cores: int, rounds: int) -> list[list[str]]:
    """Compare the ways on so many cores, and return rows of the table."""
    figures = defaultdict(list)
    allowed = os.sched_getaffinity(0)
    for _ in range(rounds):
        for way in WAYS:
            os.sched_setaffinity(0, sorted(allowed)[:cores])  # child processes inherit it
            command = [sys.executable, str(Path(__file__).resolve()), way, str(photos), str(cores)]
            output = run(command, photos, TF_CPP_MIN_LOG_LEVEL="3").output
            os.sched_setaffinity(0, allowed)
            figures[way].append(json.loads(output.splitlines()[-1]))
            print(f"{way}, {cores} cores: {figures[way][-1]}", flush=True)
    rows = []
    for way in WAYS:
        rates, cpu, busy = zip(*figures[way], strict=True)
        ratio = median_ratio(rates, [rate for rate, *_ in figures["tf.data"]])
        name = f"{way}, {cores} core{'s' if cores > 1 else ''}"
        rows.append(
            [
                name,
                f"{median(rates):,.0f}",
                f"{ratio:.2f}",
                f"{1000 * median(cpu):.2f}",
                f"{median(busy):.0%}",
            ]
        )
    return rows


def decode(way: str, photos: Path, cores: int) -> None:
    """Decode all photos; print photos a second, CPU seconds a photo, and how busy cores are.

    TensorFlow has started before; starting processes counts.
    """
    if way == "tf.data":
        import keras

        batches = keras.utils.image_dataset_from_directory(
            photos, image_size=(IMAGE_SIZE, IMAGE_SIZE), batch_size=BATCH_SIZE, verbose=False
        )
        batches = batches.map(lambda pixels, labels: pixels).repeat(PASSES)
    else:
        from image_classifier.common import decoding
        from image_classifier.common.class_folders import find_class_folders, find_files
        from image_classifier.common.images import load_batches

        decoding.LEAST_CORES = 1 if way == "processes" else cores + 1
        folders = find_class_folders(photos).values()
        paths = [path for folder in folders for path in find_files(folder)]
        batches = load_batches(PASSES * paths, BATCH_SIZE, IMAGE_SIZE, "rgb", cores)
    start, cpu = time.perf_counter(), cpu_seconds()
    count = sum(len(batch) for batch in batches)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    print(json.dumps([count / seconds, cpu / count, cpu / seconds / cores]))


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
