"""Search for good parameters: each trial becomes a hidden Git experiment of the current commit."""

from image_classifier.common.script import run

import argparse
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from tqdm import tqdm

from image_classifier.common.errors import InputError
from image_classifier.common.params import read_params
from image_classifier.common.progress import progress_bar
from image_classifier.experiments.arguments import positive
from image_classifier.outputs.git import project_tree
from image_classifier.preparation.ray_cluster import connect
from image_classifier.sweeps.trials import PREPARE_PARAMETERS, TrialPool

if TYPE_CHECKING:
    from optuna import Study

    from image_classifier.sweeps.sweep_file import Sweep


def main() -> None:
    arguments = parse_arguments()
    params = read_params()
    if params.train.strategy == "multi_worker":
        raise InputError(
            "train.strategy: found 'multi_worker'; a sweep trains each trial on one machine, "
            "allowed: none, mirrored"
        )

    # Imported here: Optuna and DVC take seconds to load, and errors in parameters come first.
    from image_classifier.sweeps import runner, table
    from image_classifier.sweeps.study import finished_trials, open_study
    from image_classifier.sweeps.sweep_file import read_sweep

    sweep = read_sweep(arguments.file, params)
    trial_count = min(arguments.trials or sweep.trials, sweep.combinations)
    make_pool, most_jobs = join_cluster(arguments) if arguments.ray else (TrialPool, 1)
    jobs = min(arguments.jobs or most_jobs, trial_count)
    results = arguments.file.with_suffix("")  # ignored by Git
    snapshot = runner.take_snapshot()
    copies = runner.COPIES / results.name
    with (
        runner.locked(arguments.file),
        # Outside the pool: closing the pool ends the trials that the executor waits for.
        ThreadPoolExecutor(jobs) as executor,
        closing(make_pool(copies, jobs, project_tree(snapshot.source), snapshot.cache)) as pool,
    ):
        results.mkdir(exist_ok=True)
        identity = runner.identify(snapshot, pool.prepared, sweep)
        # The search begins with the present parameters, so that its result can be compared.
        present = sweep.present(params)
        study = open_study(
            results / "trials.sqlite3", identity, sweep, params.train.epochs, present
        )
        done = len(finished_trials(study))
        print(f"{arguments.file}: {done} of {trial_count} trials are done")

        name = runner.short_name(results.name, identity)
        sweep_runner = runner.SweepRunner(study, sweep, pool, snapshot, name)
        deadline = time.monotonic() + (arguments.timeout or math.inf)
        trials = sweep_runner.run(executor, jobs, trial_count, deadline)
        # The summary's libraries take a second to load, in which the first trials run.
        Thread(target=partial(import_module, "image_classifier.sweeps.plots"), daemon=True).start()
        # A Ray cluster prints lines of its own, and so does the preparation of other data.
        others = arguments.ray or any(name in PREPARE_PARAMETERS for name in sweep.parameters)
        hidden = bool(others) or not sys.stderr.isatty()
        with progress_bar("trials", trial_count, "trial", initial=done, hidden=hidden) as progress:
            for number, trial in enumerate(trials, start=done + 1):
                if number == done + 1:
                    tqdm.write(table.header(sweep))
                tqdm.write(table.line(f"{number}/{trial_count}", trial, sweep))
                progress.update()
    summarise(study, sweep, present, arguments.file, results)


def summarise(
    study: "Study", sweep: "Sweep", present: dict | None, file: Path, results: Path
) -> None:
    """Write the table of trials and plots of the sweep, and print the best trial.

    And whether it is better than `present`, the values in params.yaml, if a trial had these.

    Raises:
        InputError: if no trial was completed.
    """
    from optuna.trial import TrialState

    from image_classifier.sweeps import table
    from image_classifier.sweeps.plots import draw_sweep
    from image_classifier.sweeps.study import write_trials

    write_trials(study, results / "trials.csv")
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        raise InputError(f"{file}: no trial was completed, see {results}/trials.csv")
    plots = draw_sweep(study, sweep.metric, results)
    best = study.best_trial
    name = best.user_attrs["experiment"]
    values = ", ".join(f"{key} {table.shown(value)}" for key, value in best.params.items())
    print(f"\nBest trial: {name}, validation {sweep.metric} {best.value:.4f}")
    print(f"            {values}")
    before = next((trial for trial in complete if trial.params == present), None)
    better = before and before.value != best.value
    if better:
        known = before.user_attrs["experiment"]
        print(f"At present: {known}, validation {sweep.metric} {before.value:.4f}")
    elif before:
        print("            no better than the values in params.yaml")
    print(f"\nTo use it   dvc exp apply {name}")
    if better:
        print(f"Is it luck? python src/report.py {known} {name}")
    print(f"Look at     {results}/trials.csv")
    for path in plots:
        print(f"            {path}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file",
        type=yaml_file,
        nargs="?",
        default=Path("sweeps/learning_rate.yaml"),
        help="sweep file: which parameters to search, and how (default: %(default)s)",
    )
    parser.add_argument(
        "--trials", type=positive(int), help="total number of trials (default: from the file)"
    )
    parser.add_argument(
        "--jobs",
        type=positive(int),
        help="number of trials to run in parallel "
        "(default: 1; with --ray, as many as the cluster can run)",
    )
    parser.add_argument(
        "--timeout",
        type=positive(float),
        metavar="SECONDS",
        help="start no new trials after this many seconds",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the trials on a Ray cluster: host:6379 from a machine of the cluster, "
        "ray://host:10001 from any other",
    )
    parser.add_argument(
        "--gpus-per-trial",
        type=positive(float),
        default=0,
        metavar="GPUS",
        help="GPUs reserved for each trial on the Ray cluster, such as 1 or 0.5 (default: none)",
    )
    arguments = parser.parse_args()
    if arguments.gpus_per_trial and not arguments.ray:
        parser.error("--gpus-per-trial: allowed with --ray")
    return arguments


def join_cluster(arguments: argparse.Namespace) -> tuple[Callable, int]:
    """Connect to the Ray cluster.

    Returns:
        A factory for cluster-backed trial pools, and the number of trials the cluster can run at
        once.
    """
    from image_classifier.sweeps.ray_pool import ClusterPool

    address, gpus = arguments.ray, arguments.gpus_per_trial
    ray = connect(address)
    resources = ray.cluster_resources()
    count = int(resources.get("CPU", 0))
    if gpus:
        count = min(count, int(resources.get("GPU", 0) / gpus))
    machines = sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())
    print(f"Ray at {address}: machines: {machines}, trials at a time: {count}")
    return partial(ClusterPool, ray, gpus), max(1, count)


def yaml_file(text: str) -> Path:
    """A path for argparse; the results go to a folder with this name, without .yaml."""
    path = Path(text)
    if path.suffix != ".yaml":
        raise argparse.ArgumentTypeError(
            f"found {text!r}; allowed: a file whose name ends in .yaml"
        )
    return path


if __name__ == "__main__":
    run(main)
