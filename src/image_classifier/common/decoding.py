"""Decode images ahead of their consumer: in threads or, if there are many files, in processes.

Python holds its global lock for a third of the time that Pillow takes: threads are as fast as
processes on two cores, but hardly faster on sixteen than on four.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryFile
from typing import BinaryIO, TypeVar

import numpy as np

from image_classifier.common.errors import InputError
from image_classifier.common.processes import ChildProcess
from image_classifier.common.remote import is_remote

LEAST_CORES = 4  # for processes
LEAST_IMAGES = 2000  # for processes: threads decode as many while processes start
IMAGES_PER_PROCESS = 100  # a process takes 0.3 s to start, and 50 MB
IMAGES_PER_CALL = 16  # with 4, this process would take twice as long per image
BATCHES_AHEAD = 2

Location = TypeVar("Location")
Load = Callable[[Location], np.ndarray]
Decode = Callable[[Sequence[Location], int], list[np.ndarray | InputError]]
"""Takes images and their place in the ring; the results may be overwritten a ring later."""


def decode_ahead(
    load: Load, paths: Sequence[Location], batch_size: int, shape: tuple[int, ...], threads: int
) -> Iterator[tuple[Sequence[Location], Iterator[np.ndarray | InputError]]]:
    """Decode images in batches, ahead of the consumer by two batches or what keeps cores busy.

    Args:
        load: maps a location to uint8 of `shape`, or raises InputError; it is pickled.
        paths: locations of the images, all of one kind.
        batch_size: number of images per batch; the last one may have fewer.
        shape: of an image's pixels.
        threads: number of images to decode at once.

    Yields:
        The locations of a batch, and for each the pixels or the InputError. Pixels must be copied
        before the next batch is asked for.
    """
    processes = _number_of_processes(paths, threads)
    images = IMAGES_PER_CALL if processes else 1
    # Each process has a call, and another one in reserve.
    ahead = max(BATCHES_AHEAD, -(-2 * IMAGES_PER_CALL * processes // batch_size))
    rows = (ahead + 1) * batch_size
    with ExitStack() as stack:
        if processes:
            decode = _start_processes(stack, processes, load, (rows, *shape))
        else:
            decode = partial(_load_all, load)
        pool = ThreadPoolExecutor(processes or threads)
        stack.callback(pool.shutdown, cancel_futures=True)  # the consumer may have stopped early
        waiting: deque[tuple[Sequence[Location], list[Future]]] = deque()
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            calls = [
                pool.submit(decode, batch[place : place + images], (start + place) % rows)
                for place in range(0, len(batch), images)
            ]
            waiting.append((batch, calls))
            if len(waiting) > ahead:
                yield _with_results(*waiting.popleft())
        while waiting:
            yield _with_results(*waiting.popleft())


def _number_of_processes(paths: Sequence[Location], threads: int) -> int:
    """The number of processes to use, or 0 if threads are as fast."""
    if threads < LEAST_CORES or len(paths) < LEAST_IMAGES:
        return 0
    if not isinstance(paths[0], str | Path) or is_remote(str(paths[0])):
        return 0  # mostly waits for a network, or is in the memory of this process
    return min(threads, len(paths) // IMAGES_PER_PROCESS)


def _with_results(
    batch: Sequence[Location], calls: list[Future]
) -> tuple[Sequence[Location], Iterator[np.ndarray | InputError]]:
    return batch, (result for call in calls for result in call.result())


def _load_all(
    load: Load, paths: Sequence[Location], row: int | None = None
) -> list[np.ndarray | InputError]:
    results = []
    for path in paths:
        try:
            results.append(load(path))
        except InputError as error:
            results.append(error)
    return results


def _start_processes(stack: ExitStack, count: int, load: Load, shape: tuple[int, ...]) -> Decode:
    """Start processes that write pixels to a ring of this shape in memory that all share."""
    file = stack.enter_context(_nameless_file())
    ring = np.memmap(file, np.uint8, "w+", shape=shape)
    idle = SimpleQueue()
    for _ in range(count):
        idle.put(stack.enter_context(ChildProcess([file.fileno()])))

    def decode(paths: Sequence[Location], row: int) -> list[np.ndarray | InputError]:
        process = idle.get()
        try:
            errors = process.call(_load_into, file.fileno(), shape, row, load, paths)
        finally:
            idle.put(process)
        pixels = np.asarray(ring[row : row + len(paths)])
        return [error or image for error, image in zip(errors, pixels, strict=True)]

    return decode


def _load_into(
    descriptor: int, shape: tuple[int, ...], row: int, load: Load, paths: Sequence[Location]
) -> list[InputError | None]:
    """In a process: write pixels to consecutive rows of the ring, and return the errors."""
    errors = []
    for place, result in enumerate(_load_all(load, paths), start=row):
        failed = isinstance(result, InputError)
        if not failed:
            _open_ring(descriptor, shape)[place] = result
        errors.append(result if failed else None)
    return errors


def _nameless_file() -> BinaryIO:
    """A file that cannot be left behind; in memory if possible, but not in a container's /dev/shm,
    which may be small."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pixels"), "r+b")
    return TemporaryFile()


@lru_cache(maxsize=1)
def _open_ring(descriptor: int, shape: tuple[int, ...]) -> np.ndarray:
    with os.fdopen(descriptor, "r+b", closefd=False) as file:
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))
