from functools import partial

import numpy as np
import pytest

from image_classifier.networks.tensorflow_setup import keras, tf
from image_classifier.training import batches
from image_classifier.training.batches import Part, ordered_batches, training_batches


@pytest.fixture(params=[16 * 2**20, 1], ids=["one chunk", "many chunks"], autouse=True)
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK_BYTES", request.param)


def numbered(view_count: int, row_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that contain their view and number, and labels of ten times the number."""
    views, rows = np.meshgrid(np.arange(view_count), np.arange(row_count), indexing="ij")
    return np.stack([views, rows], axis=-1).astype(np.float32), np.arange(row_count) * 10


def test_an_epoch_has_each_row_once_with_its_label():
    data, labels = numbered(view_count=1, row_count=10)
    dataset = training_batches(data, labels, batch_size=4, seed=0)
    assert len(dataset) == 3
    orders = []
    for _ in range(3):
        pairs = [(rows.numpy(), row_labels.numpy()) for rows, row_labels in dataset]
        assert [len(rows) for rows, _ in pairs] == [4, 4, 2]
        rows = np.concatenate([rows[:, 1] for rows, _ in pairs])
        assert sorted(rows) == list(range(10))
        assert (np.concatenate([part for _, part in pairs]) == rows * 10).all()
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("row_count", "counts"), [(10, (1, 1, 1)), (9, (1, 2)), (8, (2, 2))])
def test_the_parts_of_all_replicas_are_the_batch_of_one_process(
    row_count: int, counts: tuple[int, ...]
):
    data, labels = numbered(view_count=2, row_count=row_count)
    replicas = sum(counts)
    parts = [Part(sum(counts[:number]), count, replicas) for number, count in enumerate(counts)]
    for make in (partial(training_batches, seed=0, first_epoch=1), ordered_batches):
        whole = list(make(data, labels, batch_size=4).as_numpy_iterator())
        shares = [make(data, labels, batch_size=4, part=part) for part in parts]
        assert {len(share) for share in shares} == {len(whole)}
        for (rows, row_labels), *own in zip(whole, *shares, strict=True):
            size = len(rows)
            assert [int(own_size) for _, _, own_size in own] == [size] * len(parts)
            # All replicas take equally many rows; surplus rows are at the end.
            lengths = [len(own_rows) for own_rows, _, _ in own]
            assert lengths == [count * -(-size // replicas) for count in counts]
            together = np.concatenate([own_rows for own_rows, _, _ in own])
            assert (together[:size] == rows).all()
            labels_together = np.concatenate([own_labels for _, own_labels, _ in own])
            assert (labels_together[:size] == row_labels).all()
            assert (together[size:] == rows[-1]).all()


@pytest.mark.parametrize("steps_per_execution", [1, 2, 200])
def test_epochs_use_the_views_in_turn(steps_per_execution: int):
    data, labels = numbered(view_count=3, row_count=7)
    seen = []

    class Record(keras.layers.Layer):
        def call(self, rows: tf.Tensor) -> tf.Tensor:
            tf.py_function(lambda rows: seen.extend(rows.numpy().tolist()), [rows], [])
            return rows

    network = keras.Sequential([keras.Input((2,)), Record(), keras.layers.Dense(1)])
    network.compile(
        "sgd", "mse", run_eagerly=False, steps_per_execution=steps_per_execution, jit_compile=False
    )
    batches = training_batches(data, labels, batch_size=2, seed=0)
    network.fit(batches, epochs=4, shuffle=False, verbose=0)
    assert len(seen) == 28
    for epoch, view in enumerate([0, 1, 2, 0]):
        rows = seen[7 * epoch : 7 * epoch + 7]
        assert {row[0] for row in rows} == {view}
        assert sorted(row[1] for row in rows) == list(range(7))


def test_the_order_depends_on_the_seed():
    data, labels = numbered(view_count=1, row_count=50)

    def orders(seed: int) -> list[int]:
        dataset = training_batches(data, labels, batch_size=8, seed=seed)
        return [label for _ in range(2) for _, part in dataset for label in part.numpy()]

    assert orders(1) == orders(1) != orders(2)


def test_ordered_batches_keep_the_order_of_the_first_view():
    data, labels = numbered(view_count=2, row_count=11)
    dataset = ordered_batches(data, labels, batch_size=4)
    assert len(dataset) == 3
    rows = np.concatenate([rows.numpy() for rows, _ in dataset])
    assert rows.tolist() == [[0, row] for row in range(11)]


def test_arrays_on_disk_give_the_same_batches_as_arrays_in_memory(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 4, 4, 3)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    dataset = ordered_batches(mapped, np.zeros(9, int), batch_size=2)
    assert (np.concatenate([rows.numpy() for rows, _ in dataset]) == pixels[0]).all()


@pytest.mark.parametrize(("cached_bytes", "expected"), [(1000, 1), (0, 2)])
def test_a_small_array_is_read_once(
    monkeypatch: pytest.MonkeyPatch, cached_bytes: int, expected: int
):
    reads, cut = [], batches.split_order
    monkeypatch.setattr(batches, "CACHED_BYTES", cached_bytes)
    monkeypatch.setattr(batches, "split_order", lambda *args: reads.append(1) or cut(*args))
    data, labels = numbered(view_count=1, row_count=10)
    dataset = ordered_batches(data, labels, batch_size=4)
    for _ in range(2):
        assert np.concatenate([rows for rows, _ in dataset])[:, 1].tolist() == list(range(10))
    assert len(reads) == expected


@pytest.mark.parametrize("feed", [partial(training_batches, seed=0), ordered_batches])
def test_no_tuning_thread_delays_the_end_of_an_epoch(feed):
    data, labels = numbered(view_count=1, row_count=10)
    assert feed(data, labels, batch_size=4).options().autotune.enabled is False
