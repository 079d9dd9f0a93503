"""Decoding in other processes gives what threads give, and leaves no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from helpers.images import noisy_image
from helpers.project import REPOSITORY
from helpers.running import wait_until
from image_classifier.common import decoding
from image_classifier.common.errors import InputError
from image_classifier.common.images import load_batches, load_readable_batches
from image_classifier.common.processes import ChildProcess

COUNT = 41
BATCH_SIZE = 6  # not a multiple of the images per call
# A consumer that waits in the middle, with two processes.
WAITING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored, as below nohup
sys.path.insert(0, {sources!r})
from image_classifier.common import decoding, images
decoding.LEAST_CORES, decoding.LEAST_IMAGES, decoding.IMAGES_PER_PROCESS = 2, 8, 4
batches = images.load_batches(sys.argv[1:], 2, 16, "rgb", threads=2)
next(batches)
print("decoding", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.jpg" for number in range(COUNT)]
    for number, path in enumerate(paths):
        noisy_image(number, (70, 50)).save(path)
    return paths


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> list[ChildProcess]:
    """Use processes also for few images and cores; returns those that were started."""
    started = []

    class Recorded(ChildProcess):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(decoding, "ChildProcess", Recorded)
    monkeypatch.setattr(decoding, "LEAST_CORES", 2)
    monkeypatch.setattr(decoding, "LEAST_IMAGES", COUNT)
    monkeypatch.setattr(decoding, "IMAGES_PER_PROCESS", 10)
    monkeypatch.setattr(decoding, "IMAGES_PER_CALL", 4)  # the shared memory is used several times
    return started


def ended(processes: list[ChildProcess]) -> bool:
    return all(process._process.returncode is not None for process in processes)


@pytest.mark.parametrize("color_mode", ["rgb", "grayscale"])
def test_processes_give_the_pixels_of_threads(
    paths: list[Path], in_processes: list[ChildProcess], color_mode: str
):
    expected = list(load_batches(paths, BATCH_SIZE, 16, color_mode, threads=1))
    assert not in_processes
    batches = list(load_batches(paths, BATCH_SIZE, 16, color_mode, threads=2))
    assert len(in_processes) == 2 and ended(in_processes)
    assert [len(batch) for batch in batches] == [BATCH_SIZE] * 6 + [5]
    assert all(map(np.array_equal, batches, expected))


def test_processes_name_the_damaged_file(
    paths: list[Path], in_processes: list[ChildProcess], tmp_path: Path
):
    damaged = [*paths[:20], tmp_path / "bad.jpg", *paths[20:], tmp_path / "missing.jpg"]
    damaged[20].write_text("no image")
    with pytest.raises(InputError, match=r"bad\.jpg: cannot identify"):
        list(load_batches(damaged, BATCH_SIZE, 16, "rgb", threads=2))
    assert in_processes and ended(in_processes)


def test_processes_skip_damaged_files(
    paths: list[Path],
    in_processes: list[ChildProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    errors = []
    mixed = [*paths[:20], tmp_path / "missing.jpg", *paths[20:]]
    batches = list(load_readable_batches(mixed, BATCH_SIZE, 16, "rgb", errors.append))
    assert [path for batch, _ in batches for path in batch] == paths
    expected = np.concatenate(list(load_batches(paths, BATCH_SIZE, 16, "rgb", threads=1)))
    assert np.array_equal(np.concatenate([pixels for _, pixels in batches]), expected)
    (error,) = errors
    assert "missing.jpg" in str(error)


def test_a_consumer_that_stops_early_ends_the_processes(
    paths: list[Path], in_processes: list[ChildProcess]
):
    batches = load_batches(paths, BATCH_SIZE, 16, "rgb", threads=2)
    next(batches)
    batches.close()
    assert in_processes and ended(in_processes)


def test_a_process_that_is_killed_is_an_error(paths: list[Path], in_processes: list[ChildProcess]):
    batches = load_batches(paths, 1, 16, "rgb", threads=2)
    next(batches)
    for process in in_processes:
        process._process.kill()
    with pytest.raises(MemoryError, match="was killed"):
        list(batches)
    assert ended(in_processes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(paths: list[Path], number: signal.Signals):
    script = WAITING.format(sources=str(REPOSITORY / "src"))
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "decoding\n"
        children = psutil.Process(process.pid).children()
        os.killpg(process.pid, number)
        output = process.communicate()[1]
    assert len(children) == 2
    wait_until(lambda: not any(child.is_running() for child in children))
    assert "processes.py" not in output  # no traceback of a process


@pytest.mark.parametrize(
    "paths",
    [
        ["https://example.com/image.jpg"] * 2000,
        [Path("image.jpg")] * (decoding.LEAST_IMAGES - 1),
    ],
)
def test_remote_images_and_few_images_are_decoded_in_threads(paths: list[Path | str]):
    assert not decoding._number_of_processes(paths, 64)


def test_a_large_machine_starts_no_more_processes_than_pay():
    paths = [Path("image.jpg")] * 2000
    assert [decoding._number_of_processes(paths, cores) for cores in (2, 16, 64)] == [0, 16, 20]
