import numpy as np
import pytest

from image_classifier import batches
from image_classifier.batches import ordered_batches, steps_per_execution, training_batches


@pytest.fixture(params=[16 * 2**20, 1], ids=["one chunk", "many chunks"], autouse=True)
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK_BYTES", request.param)


def numbered(view_count: int, row_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that tell their view and their number, and labels that are ten times the number."""
    views, rows = np.meshgrid(np.arange(view_count), np.arange(row_count), indexing="ij")
    return np.stack([views, rows], axis=-1).astype(np.float32), np.arange(row_count) * 10


def test_an_epoch_has_each_row_once_with_its_label():
    data, labels = numbered(view_count=1, row_count=10)
    dataset = training_batches(data, labels, batch_size=4, epochs=3, seed=0)
    pairs = [(rows.numpy(), row_labels.numpy()) for rows, row_labels in dataset]
    assert [len(rows) for rows, _ in pairs] == [4, 4, 2] * 3
    orders = []
    for epoch in range(3):
        rows = np.concatenate([rows[:, 1] for rows, _ in pairs[3 * epoch : 3 * epoch + 3]])
        epoch_labels = np.concatenate([part for _, part in pairs[3 * epoch : 3 * epoch + 3]])
        assert sorted(rows) == list(range(10))
        assert (epoch_labels == rows * 10).all()
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_epochs_take_views_in_turn():
    data, labels = numbered(view_count=2, row_count=5)
    dataset = training_batches(data, labels, batch_size=5, epochs=4, seed=0)
    assert [set(rows.numpy()[:, 0]) for rows, _ in dataset] == [{0}, {1}, {0}, {1}]


def test_the_seed_decides_the_order():
    data, labels = numbered(view_count=1, row_count=50)

    def order(seed: int) -> list[int]:
        dataset = training_batches(data, labels, batch_size=8, epochs=2, seed=seed)
        return np.concatenate([part.numpy() for _, part in dataset]).tolist()

    assert order(1) == order(1) != order(2)


def test_ordered_batches_keep_the_order_of_the_first_view():
    data, labels = numbered(view_count=2, row_count=11)
    dataset = ordered_batches(data, labels, batch_size=4)
    assert len(dataset) == 3
    rows = np.concatenate([rows.numpy() for rows, _ in dataset])
    assert rows.tolist() == [[0, row] for row in range(11)]


def test_arrays_on_disk_are_fed_like_those_in_memory(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 4, 4, 3)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    dataset = ordered_batches(mapped, np.zeros(9, int), batch_size=2)
    assert (np.concatenate([rows.numpy() for rows, _ in dataset]) == pixels[0]).all()


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 1), (63, 63), (200, 200), (201, 67), (400, 200), (211, 1)]
)
def test_whole_executions_make_an_epoch(steps: int, expected: int):
    assert steps_per_execution(steps) == expected


@pytest.mark.parametrize(("cached_bytes", "expected"), [(1000, 1), (0, 2)])
def test_a_small_array_is_read_once(
    monkeypatch: pytest.MonkeyPatch, cached_bytes: int, expected: int
):
    reads, cut = [], batches._chunks_of
    monkeypatch.setattr(batches, "CACHED_BYTES", cached_bytes)
    monkeypatch.setattr(batches, "_chunks_of", lambda *args: reads.append(1) or cut(*args))
    data, labels = numbered(view_count=1, row_count=10)
    dataset = ordered_batches(data, labels, batch_size=4)
    for _ in range(2):
        assert np.concatenate([rows for rows, _ in dataset])[:, 1].tolist() == list(range(10))
    assert len(reads) == expected
