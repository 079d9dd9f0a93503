"""9. Features on a Ray cluster: two workers with a core each, compared with one.

python benchmarks/features_on_ray.py /path/to/cats_and_dogs_filtered.zip
"""

import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from measure import (
    LITE0,
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    workers,
    write_section,
)

VIEWS = 3
TASK_SIZE = 64  # photos; with 256 a task, 2,000 photos cannot be shared equally
WARM = 4 * TASK_SIZE  # photos after which both workers have loaded TensorFlow
TRAINING_PHOTOS = 2000
WAYS = {"local engine, both cores": 0, "ray, one worker": 1, "ray, two workers": 2}
REFERENCE = "ray, one worker"


def main() -> None:
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    whole, warm = defaultdict(list), defaultdict(list)
    with temporary_folder() as folder:
        project = make_project(
            folder / "project", "cats_and_dogs", arguments.photos, prepare__views=VIEWS, **LITE0
        )
        substitute(
            project / "src/image_classifier/preparation/engines.py", "TASK_SIZE = ", TASK_SIZE
        )
        # Progress is printed after each part, not once a minute.
        substitute(project / "src/image_classifier/common/progress.py", "INTERVAL = ", 0)
        run([sys.executable, "src/download.py"], project)
        for _ in range(arguments.rounds):
            for name, count in WAYS.items():
                substitute(project / "params.yaml", "engine: ", "ray" if count else "local")
                with workers(count) as address:
                    done = run([sys.executable, "src/prepare.py"], project, RAY_ADDRESS=address)
                whole[name].append(done.seconds)
                warm[name].append(rate(done.output))
                print(f"{name}: {done.seconds:.1f} s, {warm[name][-1]:.0f} a second", flush=True)
    rows = [
        [
            name,
            f"{median(warm[name]):.0f}",
            f"{median_ratio(warm[name], warm[REFERENCE]):.2f}",
            f"{median(whole[name]):.1f}",
            f"{median_ratio(whole[REFERENCE], whole[name]):.2f}",
        ]
        for name in WAYS
    ]
    header = ["", "images a second", "times as fast", "prepare, seconds", "times as fast"]
    write_section(
        "9. Features on a Ray cluster",
        [
            *table(header, rows),
            "",
            "`python src/prepare.py` on cats and dogs, efficientnet_lite0 at 180x180, "
            f"{VIEWS} views of each training photo. Each worker has one core of this machine, "
            f"which also runs the command and Ray; photos are sent to the workers, {TASK_SIZE} at "
            f"a time. The images a second exclude the first {WARM} training photos; the seconds "
            "of prepare include joining the cluster, and loading TensorFlow in the command and in "
            f"the workers. Medians of {arguments.rounds} rounds, ratios within a round.",
        ],
    )


def substitute(path: Path, name: str, value: object) -> None:
    """Replace the value after a name in a file."""
    text, count = re.subn(rf"{name}\w+", f"{name}{value}", path.read_text())
    assert count == 1, f"{path}: {name!r} was found {count} times"
    path.write_text(text)


def rate(output: str) -> float:
    """Views of training photos a second, by the printed progress."""
    shown = re.findall(r"preparing images: ([\d,]+) of [\d,]+ images, (\d+) s", output)
    points = [(int(count.replace(",", "")), int(seconds)) for count, seconds in shown]
    done = [point for point in points if VIEWS * WARM <= point[0] <= VIEWS * TRAINING_PHOTOS]
    first, last = done[0], done[-1]
    return (last[0] - first[0]) / (last[1] - first[1])


if __name__ == "__main__":
    main()
