"""Search hyperparameters: each trial becomes a hidden Git experiment of the current commit."""

import argparse
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML

from image_classifier.arguments import positive
from image_classifier.cluster import connect
from image_classifier.errors import InputError, run
from image_classifier.git import git, name_the_committer
from image_classifier.params import read_params
from image_classifier.trials import TrialError, TrialPool

COPIES = Path(".dvc/tmp/sweeps")


def main() -> None:
    arguments = parse_arguments()
    params = read_params()
    if params.train.strategy == "multi_worker":
        raise InputError(
            "train.strategy: found 'multi_worker'; a search trains each trial on one machine, "
            "allowed: none, mirrored"
        )

    # Not at the top: Optuna and DVC take seconds to import, and errors in parameters come first.
    import optuna
    from dvc.lock import LockError, make_lock
    from dvc.repo import Repo
    from dvc.repo.experiments.refs import ExpRefInfo

    from image_classifier.search import (
        draw_search,
        finished_trials,
        interrupted_trials,
        new_trials,
        open_study,
        read_sweep,
        write_trials,
    )

    sweep = read_sweep(arguments.file, params)
    trial_count = min(arguments.trials or sweep.trials, sweep.combinations)
    make_pool, most_jobs = TrialPool, 1
    if arguments.ray:
        make_pool, most_jobs = join_cluster(arguments.ray, arguments.gpus_per_trial)
    jobs = min(arguments.jobs or most_jobs, trial_count)
    results = arguments.file.with_suffix("")  # ignored by Git

    name_the_committer()
    parent = git("rev-parse", "HEAD")
    git("status")  # in a copied repository, `git stash create` fails until Git has looked at it
    source = git("stash", "create") or parent  # with what is not committed, as in `dvc exp run`
    with Repo() as repo:
        cache = repo.cache.local_cache_dir
    COPIES.mkdir(parents=True, exist_ok=True)
    lock = make_lock(COPIES / f"{results.name}.lock", tmp_dir=COPIES)
    try:
        lock.lock()
    except LockError:
        raise InputError(f"{arguments.file}: this search is running already") from None

    with (
        ThreadPoolExecutor(jobs) as executor,  # around the pool, which ends what this waits for
        make_pool(COPIES / results.name, jobs, source, cache) as pool,
    ):
        results.mkdir(exist_ok=True)
        identity = identify(parent, source, pool.prepared, sweep.model_dump(exclude={"trials"}))
        study = open_study(results / "trials.sqlite3", identity, sweep, params.train.epochs)
        prefix = f"{results.name}-{identity[:4]}"
        done = len(finished_trials(study))
        print(f"{arguments.file}: {done} of {trial_count} trials are done", flush=True)

        for trial in interrupted_trials(study):  # they may have been saved already
            git("update-ref", "-d", str(ExpRefInfo(parent, f"{prefix}-{trial.number:03}")))

        def objective(trial: optuna.Trial) -> tuple[optuna.trial.TrialState, float | None]:
            values = {key: choice.suggest(trial, key) for key, choice in sweep.parameters.items()}
            judged, pruned = 0, False

            def go_on(epoch: int, metrics: dict[str, float]) -> bool:
                nonlocal judged, pruned
                if epoch > judged:  # a trial that has lost its machine does the same again
                    trial.report(metrics[sweep.metric], epoch)
                    judged, pruned = epoch, trial.should_prune()
                return epoch < judged or not pruned

            experiment = f"{prefix}-{trial.number:03}"
            answer = pool.run(values, go_on)
            message = f"dvc: experiment {experiment}"
            commit = git("commit-tree", answer["tree"], "-p", parent, "-m", message)
            trial.set_user_attr("experiment", experiment)
            git("update-ref", str(ExpRefInfo(parent, experiment)), commit)
            if pruned:
                return optuna.trial.TrialState.PRUNED, None
            return optuna.trial.TrialState.COMPLETE, answer["metrics"][sweep.metric]

        trials = itertools.islice(new_trials(study, sweep), max(0, trial_count - done))
        deadline = time.monotonic() + (arguments.timeout or math.inf)
        for trial, result in run_trials(executor, jobs, objective, trials, deadline):
            try:
                state, value = result.result()
            except TrialError as error:
                trial.set_user_attr("error", str(error))
                state, value = optuna.trial.TrialState.FAIL, None
            finished = study.tell(trial, value, state)
            done += 1
            print(f"{done:>4}/{trial_count}  {describe(finished, sweep.metric)}", flush=True)

    write_trials(study, results / "trials.csv")
    pictures = draw_search(study, sweep.metric, results)
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not complete:
        raise InputError(f"{arguments.file}: no trial was completed, see {results}/trials.csv")
    best = study.best_trial
    print(f"\nbest  {describe(best, sweep.metric)}")
    print(f"      dvc exp apply {best.user_attrs['experiment']}    brings its files here")
    for path in pictures:
        print(path)


def parse_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file",
        type=yaml_file,
        nargs="?",
        default=Path("sweeps/learning_rate.yaml"),
        help="what to search, and how (default: %(default)s)",
    )
    parser.add_argument("--trials", type=positive(int), help="how many in all")
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


def join_cluster(address: str, gpus: float) -> tuple[Callable, int]:
    """What makes a pool like a `TrialPool` on a Ray cluster, and how many trials that can run."""
    ray = connect(address)
    from image_classifier.cluster_pool import ClusterPool

    resources = ray.cluster_resources()
    count = int(resources.get("CPU", 0))
    if gpus:
        count = min(count, int(resources.get("GPU", 0) / gpus))
    machines = sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())
    print(f"Ray at {address}: machines: {machines}, trials at a time: {count}", flush=True)
    return partial(ClusterPool, ray, gpus), max(1, count)


def yaml_file(text: str) -> Path:
    """A path for argparse; what comes of the search goes to a folder of its name without .yaml."""
    path = Path(text)
    if path.suffix != ".yaml":
        raise argparse.ArgumentTypeError(
            f"found {text!r}; allowed: a file whose name ends in .yaml"
        )
    return path


def identify(parent: str, source: str, lock_file: Path, search: dict) -> str:
    """A hash of all that a trial's result depends on besides its own parameters.

    Trials of other sources, parameters or data belong to another search, under another name.
    """
    sources = [git("rev-parse", f"{source}:{path}") for path in ("src", "dvc.yaml", "params.yaml")]
    data = YAML(typ="safe").load(lock_file)["stages"]["prepare"]["outs"]
    content = json.dumps([parent, sources, data, search], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def run_trials(
    executor: Executor, jobs: int, objective: Callable, trials: Iterator, deadline: float
) -> Iterator[tuple]:
    """Run `objective` on each trial, `jobs` at a time, and yield them with their `Future`s.

    A trial is taken only when it can begin, so that it is chosen by the results of those before
    it; none is after the deadline, in seconds of `time.monotonic`.
    """
    running: dict[Future, object] = {}
    while True:
        while len(running) < jobs and time.monotonic() < deadline and (trial := next(trials, None)):
            running[executor.submit(objective, trial)] = trial
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future


def describe(trial, metric: str) -> str:
    """A line about a finished trial."""
    values = " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial.params.items()
    )
    result = f"{metric} {trial.value:.4f}" if trial.value is not None else "failed"
    if trial.state.name == "PRUNED":
        result += f", pruned after epoch {trial.last_step}"
    error = trial.user_attrs.get("error", "")
    name = trial.user_attrs.get("experiment", f"trial {trial.number}")
    seconds = trial.duration.total_seconds()
    return "  ".join(filter(None, [name, result, f"{seconds:.1f} s", values, error]))


if __name__ == "__main__":
    run(main)
