"""Compute for src/prepare.py on this machine or on a Ray cluster."""

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

TASK_SIZE = 256  # images: takes seconds; a multiple of features.FEATURE_BATCH_SIZE
Parts = Iterator[tuple[int, object]]
Compute = Callable[[Sequence[Location], int, int], Parts]
"""A function of `features`; takes images, the number of the first one, and threads."""


def compute_here(function: Compute, locations: Sequence[Location]) -> Parts:
    """Compute on all cores of this machine; yields the parts of `function` in order."""
    return function(locations, 0, cpu_count())


def compute_on_ray(function: Compute, locations: Sequence[Location]) -> Parts:
    """Compute on a Ray cluster; yields the parts of `function` as they are finished.

    If a machine is lost, its unfinished work is redone by other machines; machines that join later
    are used. Images on this machine are sent to the cluster; remote images are read there. If the
    cluster has GPUs, only machines with a GPU are used: results of GPUs and CPUs differ in the
    last digits.

    Raises:
        InputError: as `function` does, or if no cluster is found, or if its machines have other
            package versions than this one.
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
        # A task for each worker, and as many in reserve, so that no worker has to wait.
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
