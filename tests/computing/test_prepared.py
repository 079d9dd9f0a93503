"""Prepared arrays, which may be larger than memory."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from helpers.attacks import Attack
from helpers.project import REPOSITORY, run_python
from image_classifier.common.errors import InputError
from image_classifier.computing import prepared
from image_classifier.computing.prepared import ImageRecord, Shards, create_array, shard_path

MEBIBYTE = 2**20
ROWS, FEATURES = 40_000, 2048  # 312 MiB
MEMORY = """
import resource
import numpy as np
from pathlib import Path
from image_classifier.computing.prepared import Shards, create_array
{imports}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
{steps}
"""
WRITE = """
write = create_array(Path("."), "train", (1, {rows}, {features}), np.float32)
before = peak()
block = np.ones((1, {rows} // 100, {features}), np.float32)
for number in range(100):
    write(number * block.shape[1], block)
print(peak() - before)
"""
READ = """
views = Shards(Path("."), "train", {rows})
batches = training_batches(views, np.zeros({rows}, np.int64), 64, seed=0)
next(iter(batches))
before = peak()
for rows, labels in batches:
    pass
print(peak() - before)
"""


def growth(folder: Path, steps: str, imports: str = "") -> int:
    """The growth of a process's memory in bytes."""
    steps = steps.format(rows=ROWS, features=FEATURES)
    code = MEMORY.format(imports=imports, steps=steps)
    done = run_python("-c", code, folder=folder, PYTHONPATH=str(REPOSITORY / "src"))
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("shard_bytes", [1, 60, 10_000], ids=["1 row", "2 rows", "all rows"])
def test_shards_are_written_in_any_order_and_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
):
    monkeypatch.setattr(prepared, "SHARD_BYTES", shard_bytes)
    expected = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    write = create_array(tmp_path, "train", expected.shape, expected.dtype)
    for first, last in [(3, 7), (0, 3)]:
        write(first, expected[:, first:last])

    shards = Shards(tmp_path, "train", 7)
    assert (shards.shape, shards.dtype, shards.nbytes) == ((2, 7, 3), np.float32, expected.nbytes)
    assert len(list(tmp_path.iterdir())) == {1: 7, 60: 4, 10_000: 1}[shard_bytes]
    for view in range(2):
        for rows in (4, slice(1, 6), slice(5, None), slice(6, 100), np.array([6, 0, 3, 3, 1])):
            np.testing.assert_array_equal(shards[view, rows], expected[view, rows])


def test_a_missing_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepared, "SHARD_BYTES", 1)
    create_array(tmp_path, "train", (1, 3, 2), np.dtype(np.float32))
    shard_path(tmp_path, "train", 2).unlink()
    with pytest.raises(InputError, match=r"train-00002\.npy: .*No such file"):
        Shards(tmp_path, "train", 3)
    with pytest.raises(InputError, match=r"train-00000\.npy: found 2 images .* but 1 in "):
        shard_path(tmp_path, "train", 0).unlink()
        monkeypatch.setattr(prepared, "SHARD_BYTES", 2**20)
        create_array(tmp_path, "train", (1, 2, 2), np.dtype(np.float32))
        Shards(tmp_path, "train", 1)


def pickled() -> bytes:
    file = BytesIO()
    np.save(file, np.array([Attack(Path("executed"))], dtype=object), allow_pickle=True)
    return file.getvalue()


DAMAGED = pytest.mark.fault(
    "Data", "prepared array: missing, empty, truncated", "one-line error that names the file"
)
PICKLE = pytest.mark.fault(
    "Security", "prepared array: a pickle", "one-line error, nothing is executed"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(pickled(), "objects", marks=PICKLE),
        pytest.param(None, "No such file", marks=DAMAGED),
        pytest.param(b"", "No data left", marks=DAMAGED),
        pytest.param(b"\x93NUMPY\x01\x00v", "array header", marks=DAMAGED),
    ],
    ids=["pickle", "missing", "empty", "truncated"],
)
def test_bad_arrays_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
):
    monkeypatch.chdir(tmp_path)
    prepared.PREPARED.mkdir(parents=True)
    prepared.write_table([ImageRecord("a/1.png", "a", "train", "0" * 64)], prepared.TABLE)
    if content is not None:
        shard_path(prepared.PREPARED, "train", 0).write_bytes(content)
    with pytest.raises(InputError, match=rf"^data/prepared/train-00000\.npy: .*{message}"):
        prepared.open_splits("train")
    assert not Path("executed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise")
def test_memory_does_not_grow_with_the_array(tmp_path: Path):
    assert growth(tmp_path, WRITE) < 60 * MEBIBYTE
    imports = "from image_classifier.training.batches import training_batches"
    assert growth(tmp_path, READ, imports) < 120 * MEBIBYTE
