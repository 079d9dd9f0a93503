"""14. What users wait for, with the code of another revision and with this code, alternating.

python benchmarks/compare.py /path/to/cats_and_dogs_filtered.zip REVISION
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from measure import (
    LITE0,
    REPOSITORY,
    make_project,
    median_ratio,
    run,
    table,
    temporary_folder,
    write_section,
)

# Name -> preset and changes; with one view, as views do not change the next experiment.
NETWORKS = {
    "efficientnet_lite0": ("cats_and_dogs", {**LITE0, "prepare__views": 1}),
    "resnet50": ("cats_and_dogs_resnet50", {"prepare__views": 1, "model__weights": "random"}),
}
SAMPLING = REPOSITORY / "benchmarks/sampling"
WAYS = ("before", "now")
MANY, TRIALS = 1000, 20
NEXT, SWEEP = "the next experiment", f"a sweep of {TRIALS} trials"
SHOWN = 0.5  # seconds of a phase, at least


def main() -> None:
    arguments = read_arguments()
    revisions = dict(zip(WAYS, (arguments.revision, "HEAD"), strict=True))
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    phases = []
    with temporary_folder() as folder:
        for network, (preset, changes) in NETWORKS.items():
            projects = {}
            for way, revision in revisions.items():
                target = folder / f"{network} {way}"
                projects[way] = make_project(target, preset, arguments.photos, revision, **changes)
                run(["dvc", "exp", "run"], target)
            photos = [str(path) for path in sorted((target / "data/raw").rglob("*.jpg"))]
            rounds = [quick_commands(photos, number) for number in range(arguments.rounds)]
            for commands in [*rounds, long_commands(photos)]:
                for name, command in commands.items():
                    for way, project in projects.items():
                        times = seconds[f"{network}: {name}"][way]
                        times.append(run(command, project).seconds)
                        print(f"{network}: {name}, {way}: {times[-1]:.2f} s", flush=True)
            phases.append((network, sample_phases(projects["now"], folder / f"{network} samples")))
    lines = [
        *table(["seconds", *WAYS, "ratio"], rows_of(seconds)),
        "",
        f"*Before* is revision {arguments.revision}. The ways alternate; medians of "
        f"{arguments.rounds} rounds, ratios within a round; {MANY:,} predictions and the sweep of "
        f"{TRIALS} trials are run once. {relation(seconds)}",
    ]
    for network, rows in phases:
        lines += ["", f"Where the next experiment with {network} spends its time now:", ""]
        lines += table(["phase", "seconds"], [row for row in rows if float(row[1]) >= SHOWN])
    write_section("14. Before and after", lines)


def read_arguments() -> argparse.Namespace:
    """Read the path of the photos, the revision and the number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder or an archive of class folders")
    parser.add_argument("revision", help="a Git revision, such as a tag or a commit")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.photos = arguments.photos.resolve()
    return arguments


def quick_commands(photos: list[str], number: int) -> dict[str, list[str]]:
    """The commands of a round, by name."""
    return {
        NEXT: ["dvc", "exp", "run", "-S", f"train.learning_rate=0.00{number + 11}"],
        "nothing changed": ["dvc", "exp", "run"],
        "a prediction": [sys.executable, "src/predict.py", photos[0]],
    }


def long_commands(photos: list[str]) -> dict[str, list[str]]:
    """Commands that take a minute or more, by name."""
    return {
        f"{MANY:,} predictions": [sys.executable, "src/predict.py", *photos[:MANY]],
        SWEEP: [sys.executable, "src/sweep.py", "--trials", str(TRIALS)],
    }


def rows_of(seconds: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """The rows of the table."""
    return [
        [
            name,
            *(f"{median(by_way[way]):.2f}" for way in WAYS),
            f"{median_ratio(by_way['now'], by_way['before']):.2f}",
        ]
        for name, by_way in seconds.items()
    ]


def relation(seconds: dict[str, dict[str, list[float]]]) -> str:
    """What a trial costs, relative to the next experiment before and now."""
    texts = []
    for network in NETWORKS:
        sweep, following = seconds[f"{network}: {SWEEP}"], seconds[f"{network}: {NEXT}"]
        before, now = (median(sweep[way]) / TRIALS for way in WAYS)
        experiment_before, experiment_now = (median(following[way]) for way in WAYS)
        texts.append(
            f"With {network}, a trial costs {now / experiment_before:.2f} of the next experiment "
            f"before and {now / experiment_now:.2f} of the one now; before, a trial cost "
            f"{before / experiment_before:.2f} of it."
        )
    return " ".join(texts)


def sample_phases(project: Path, folder: Path) -> list[list[str]]:
    """Run an experiment once more, sampling which phase its processes are in."""
    samples = folder / "samples"
    samples.mkdir(parents=True)
    command = ["dvc", "exp", "run", "--set-param", "train.learning_rate=0.002"]
    whole = run(command, project, PYTHONPATH=str(SAMPLING), BENCHMARK_SAMPLES=str(samples)).seconds
    rows = []
    for stage in ("train", "evaluate"):
        (path,) = samples.glob(f"{stage}-*.json")
        result = json.loads(path.read_text())
        phases = result["phases"]
        phases["other"] = result["seconds"] - sum(phases.values()) + phases.get("other", 0)
        rows += [
            [f"{stage}: {phase}", f"{seconds:.1f}"]
            for phase, seconds in sorted(phases.items(), key=lambda item: -item[1])
            if seconds >= 0.05
        ]
        whole -= result["seconds"]
    return [["DVC, and starting and ending processes", f"{whole:.1f}"], *rows]


if __name__ == "__main__":
    main()
