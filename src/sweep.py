"""Sweep over hyperparameters: each trial becomes a hidden Git experiment of the current commit."""

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from image_classifier.common.errors import InputError
from image_classifier.common.params import read_params
from image_classifier.common.script import run
from image_classifier.experiments.arguments import positive
from image_classifier.preparation.ray_cluster import connect
from image_classifier.sweeps.trials import TrialPool


def main() -> None:
    arguments = parse_arguments()
    params = read_params()
    if params.train.strategy == "multi_worker":
        raise InputError(
            "train.strategy: found 'multi_worker'; a sweep trains each trial on one machine, "
            "allowed: none, mirrored"
        )

    # Not at the top: Optuna and DVC take seconds to import, and errors in parameters come first.
    from image_classifier.sweeps import runner
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
        ThreadPoolExecutor(jobs) as executor,  # around the pool, which ends what this waits for
        closing(make_pool(copies, jobs, snapshot.source, snapshot.cache)) as pool,
    ):
        results.mkdir(exist_ok=True)
        identity = runner.identify(snapshot, pool.prepared, sweep)
        study = open_study(results / "trials.sqlite3", identity, sweep, params.train.epochs)
        done = len(finished_trials(study))
        print(f"{arguments.file}: {done} of {trial_count} trials are done", flush=True)

        prefix = f"{results.name}-{identity[:4]}"
        sweep_runner = runner.SweepRunner(study, sweep, pool, snapshot.parent, prefix)
        deadline = time.monotonic() + (arguments.timeout or math.inf)
        trials = sweep_runner.run(executor, jobs, trial_count, deadline)
        for number, trial in enumerate(trials, start=done + 1):
            line = runner.describe(trial, sweep.metric)
            print(f"{number:>4}/{trial_count}  {line}", flush=True)
    summarise(study, sweep.metric, arguments.file, results)


def summarise(study, metric: str, file: Path, results: Path) -> None:
    """Write the table of trials and plots of the sweep, and print the best trial.

    Raises:
        InputError: if no trial was completed.
    """
    from optuna.trial import TrialState

    from image_classifier.sweeps.plots import draw_sweep
    from image_classifier.sweeps.runner import describe
    from image_classifier.sweeps.study import write_trials

    write_trials(study, results / "trials.csv")
    plots = draw_sweep(study, metric, results)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise InputError(f"{file}: no trial was completed, see {results}/trials.csv")
    best = study.best_trial
    print(f"\nbest  {describe(best, metric)}")
    print(f"      dvc exp apply {best.user_attrs['experiment']}    brings its files here")
    for path in plots:
        print(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file",
        type=yaml_file,
        nargs="?",
        default=Path("sweeps/learning_rate.yaml"),
        help="what to try, and how (default: %(default)s)",
    )
    parser.add_argument("--trials", type=positive(int), help="number of trials in all")
    parser.add_argument(
        "--jobs",
        type=positive(int),
        help="at a time (default: 1; with --ray, one for each CPU of the cluster)",
    )
    parser.add_argument("--timeout", type=positive(float), help="seconds after which none is begun")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run them on a Ray cluster: host:6379, from a machine of it, or ray://host:10001",
    )
    parser.add_argument(
        "--gpus-per-trial",
        type=positive(float),
        default=0,
        metavar="GPUS",
        help="that each takes of a Ray cluster, such as 1 or 0.5 (default: none)",
    )
    arguments = parser.parse_args()
    if arguments.gpus_per_trial and not arguments.ray:
        parser.error("--gpus-per-trial: allowed with --ray")
    return arguments


def join_cluster(arguments: argparse.Namespace) -> tuple[Callable, int]:
    """What makes a pool like a `TrialPool` on a Ray cluster, and how many trials that can run."""
    from image_classifier.sweeps.ray_pool import ClusterPool

    address, gpus = arguments.ray, arguments.gpus_per_trial
    ray = connect(address)
    resources = ray.cluster_resources()
    count = int(resources.get("CPU", 0))
    if gpus:
        count = min(count, int(resources.get("GPU", 0) / gpus))
    machines = sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())
    print(f"Ray at {address}: machines: {machines}, trials at a time: {count}", flush=True)
    return partial(ClusterPool, ray, gpus), max(1, count)


def yaml_file(text: str) -> Path:
    """A path for argparse; what comes of the sweep goes to a folder of its name without .yaml."""
    path = Path(text)
    if path.suffix != ".yaml":
        raise argparse.ArgumentTypeError(
            f"found {text!r}; allowed: a file whose name ends in .yaml"
        )
    return path


if __name__ == "__main__":
    run(main)
