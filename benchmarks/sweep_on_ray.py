"""8. A sweep on a Ray cluster: two workers with a core each, compared with one.

python benchmarks/sweep_on_ray.py /path/to/cats_and_dogs_filtered.zip
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from measure import (
    make_environment,
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    workers,
    write_section,
)

TRIALS = 24
WARM = 4  # trials after which both workers have loaded TensorFlow and run a trial
SWEEP = """metric: accuracy
sampler: random
pruner: none
trials: {trials}
seed: {seed}
parameters:
  train.learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}
"""
WORKERS = {"one worker": "1", "two workers": "2"}


def main() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are required")
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    whole, warm = defaultdict(list), defaultdict(list)
    with temporary_folder() as folder, workers(2) as address:
        project = make_project(folder / "project", "cats_and_dogs", arguments.photos)
        run(["dvc", "exp", "run"], project)
        run(["git", "add", "--all"], project)
        run(["git", "commit", "--quiet", "--message", "Run"], project)
        for number in range(arguments.rounds):
            (project / "sweeps/ray.yaml").write_text(SWEEP.format(trials=TRIALS, seed=number))
            for name, jobs in WORKERS.items():
                shutil.rmtree(project / "sweeps/ray", ignore_errors=True)
                times = run_sweep(project, address, jobs)
                whole[name].append(times[-1])
                warm[name].append((times[-2] - times[WARM - 1]) / (TRIALS - WARM))
                print(f"{name}: {times[-1]:.1f} s, {warm[name][-1]:.2f} s a trial", flush=True)
    one = next(iter(WORKERS))
    rows = [
        [
            name,
            f"{median(warm[name]):.2f}",
            f"{median_ratio(warm[one], warm[name]):.2f}",
            f"{median(whole[name]):.1f}",
            f"{median_ratio(whole[one], whole[name]):.2f}",
        ]
        for name in WORKERS
    ]
    header = ["", "seconds a trial", "times as fast", f"{TRIALS} trials, seconds", "times as fast"]
    write_section(
        "8. A sweep on a Ray cluster",
        [
            *table(header, rows),
            "",
            f"`python src/sweep.py --ray` with `--jobs` 1 and 2, {TRIALS} trials on features of "
            "cats and dogs; each worker has one core of this machine, which also runs the command "
            f"and Ray. The seconds a trial exclude the first {WARM} trials; the time of {TRIALS} "
            "trials includes joining the cluster, sending the data and loading TensorFlow. Medians "
            f"of {arguments.rounds} rounds, ratios within a round.",
        ],
    )


def run_sweep(project: Path, address: str, jobs: str) -> list[float]:
    """Return the seconds from the start to the end of each trial, and to the end of the sweep."""
    command = [sys.executable, "src/sweep.py", "sweeps/ray.yaml", "--ray", address, "--jobs", jobs]
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=project, env=make_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        finished = re.compile(rf"\s*\d+/{TRIALS}  \d+-ray-")
        times = [time.perf_counter() - start for line in process.stdout if finished.match(line)]
    if process.returncode or len(times) != TRIALS:
        sys.exit(f"{' '.join(command)} failed")
    return [*times, time.perf_counter() - start]


if __name__ == "__main__":
    main()
