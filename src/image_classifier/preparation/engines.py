"""Where src/prepare.py computes: on this machine, or on those of a Ray cluster."""

import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from os import cpu_count
from pathlib import Path

from image_classifier.common.errors import InputError
from image_classifier.common.images import Content, Location
from image_classifier.common.remote import is_remote
from image_classifier.preparation.ray_cluster import (
    connect,
    differing_versions,
    installed_versions,
    summarize,
)

TASK_SIZE = 256  # images: seconds of work, and a multiple of features.FEATURE_BATCH_SIZE
Parts = Iterator[tuple[int, object]]
Compute = Callable[[Sequence[Location], int, int], Parts]
"""One of the functions in `features`, of images, the number of the first, and threads."""


def compute_here(function: Compute, locations: Sequence[Location]) -> Parts:
    """Compute on all cores of this machine; yields what `function` does, in order."""
    return function(locations, 0, cpu_count())


def compute_on_ray(function: Compute, locations: Sequence[Location]) -> Parts:
    """Compute on a Ray cluster; yields what `function` does, in the order in which it is done.

    Machines may come and go: what a lost one was at is done again by others. Images on this
    machine are sent there; others are read where they are needed. If the cluster has GPUs, only
    machines with one take part: a GPU's results differ from a CPU's in the last digits.

    Raises:
        InputError: as `function` does, or if no cluster is found, or one whose machines have other
            versions of packages than this one.
    """
    ray = connect()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    cpus = max(1, int(resources.get("CPU", 1)) // gpus) if gpus else 1
    versions = installed_versions()

    @ray.remote(num_cpus=cpus, num_gpus=min(gpus, 1), max_retries=-1)
    def task(chunk: list[Location], first: int) -> list[tuple[int, object]]:
        if differing := differing_versions(versions):
            raise InputError(f"{socket.gethostname()}: {differing}")
        return list(function(chunk, first, cpus))

    starts = iter(range(0, len(locations), TASK_SIZE))
    running = set()
    while True:
        # One for each worker, and some that wait, so that none has to.
        wanted = 2 * int(ray.cluster_resources().get("CPU", 1)) // cpus + 2
        for start in itertools.islice(starts, max(0, wanted - len(running))):
            chunk = locations[start : start + TASK_SIZE]
            running.add(task.remote([_sendable(location) for location in chunk], start))
        if not running:
            return
        done, _ = ray.wait(list(running), timeout=10)
        for result in done:
            running.remove(result)
            try:
                yield from ray.get(result)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise InputError(str(error.cause)) from None
                if "ModuleNotFoundError: " in (summary := summarize(error)):
                    raise InputError(summary) from None
                raise


def _sendable(location: Location) -> Location:
    is_here = isinstance(location, str) and not is_remote(location)
    return Content(location, Path(location).read_bytes()) if is_here else location


ENGINES = {"local": compute_here, "ray": compute_on_ray}
