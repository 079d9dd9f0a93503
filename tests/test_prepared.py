"""The prepared arrays: files that may be larger than memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from image_classifier.errors import InputError
from image_classifier.prepared import FOLDER, TABLE, array_path, create_array, open_splits
from image_classifier.splits import ImageRecord, write_table

MEBIBYTE = 2**20
ROWS, FEATURES = 40_000, 2048  # 312 MiB
MEMORY = """
import resource
import numpy as np
from pathlib import Path
from image_classifier.prepared import create_array
{imports}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
{steps}
"""
WRITE = """
write = create_array(Path("."), "train", (1, {rows}, {features}), np.float32)
before = peak()
block = np.ones(({rows} // 100, {features}), np.float32)
for number in range(100):
    write(0, slice(number * len(block), (number + 1) * len(block)), block)
print(peak() - before)
"""
READ = """
views = np.load("train.npy", mmap_mode="r")
batches = training_batches(views, np.zeros(len(views[0]), np.int64), 64, seed=0)
next(iter(batches))
before = peak()
for rows, labels in batches:
    pass
print(peak() - before)
"""


def growth(folder: Path, steps: str, imports: str = "") -> int:
    """By how many bytes the memory of a process grows."""
    steps = steps.format(rows=ROWS, features=FEATURES)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(imports=imports, steps=steps)],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def test_rows_are_written_where_they_belong(tmp_path: Path):
    write = create_array(tmp_path, "train", (2, 5, 3), np.float32)
    for view in range(2):
        for start in (0, 2):
            rows = np.arange(start, min(start + 2, 5))
            write(view, slice(start, start + len(rows)), np.full((len(rows), 3), 10 * view + start))
    array = np.load(array_path(tmp_path, "train"))
    assert array.dtype == np.float32
    assert array[:, :, 1].tolist() == [[0, 0, 2, 2, 0], [10, 10, 12, 12, 0]]


class Attack:
    def __reduce__(self) -> tuple:
        return Path.mkdir, (Path("executed"),)


def write_pickle(path: Path) -> None:
    np.save(path, np.array([Attack()], dtype=object), allow_pickle=True)


def write_half_a_header(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\x01\x00v")


def write_nothing(path: Path) -> None:
    pass


DAMAGED = pytest.mark.fault(
    "Data", "prepared array: missing, empty, truncated", "one line that names the file"
)
PICKLE = pytest.mark.fault("Security", "prepared array: a pickle", "one line, nothing is executed")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(write_pickle, "objects", marks=PICKLE),
        pytest.param(write_nothing, "No such file", marks=DAMAGED),
        pytest.param(Path.touch, "No data left", marks=DAMAGED),
        pytest.param(write_half_a_header, "array header", marks=DAMAGED),
    ],
)
def test_bad_arrays_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable, message: str
):
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    write_table([ImageRecord("a/1.png", "a", "train", "0" * 64)], TABLE)
    write(array_path(FOLDER, "train"))
    with pytest.raises(InputError, match=rf"^data/prepared/train\.npy: .*{message}"):
        open_splits("train")
    assert not Path("executed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise")
def test_memory_does_not_grow_with_the_array(tmp_path: Path):
    assert growth(tmp_path, WRITE) < 60 * MEBIBYTE
    imports = "from image_classifier.batches import training_batches"
    assert growth(tmp_path, READ, imports) < 120 * MEBIBYTE
