"""Feed arrays that may be larger than memory to TensorFlow, in batches, without slow Python."""

from collections.abc import Callable, Iterator

import numpy as np

from image_classifier.tensorflow_setup import tf

CHUNK_BYTES = 16 * 2**20  # read at once by Python; TensorFlow cuts it into batches
CACHED_BYTES = 256 * 2**20  # of an array that is read again after each epoch


def training_batches(
    views: np.ndarray, labels: np.ndarray, batch_size: int, epochs: int, seed: int
) -> tf.data.Dataset:
    """Batches of `epochs` epochs, one after another, each in an order of its own.

    An epoch uses one view: the first epoch the first, and so on in turn. With as many views as
    epochs this is what augmentation while training would give.

    Args:
        views: (views, n, ...) of any numeric type, memory-mapped or not.
        labels: int64 (n,).
        batch_size: rows per batch; the last batch of an epoch may have fewer.
        epochs: how many times all rows are used.
        seed: decides the orders, together with the number of the epoch.

    Returns:
        Pairs of (batch_size, ...) and (batch_size,); an epoch has ceil(n / batch_size) of them.
    """

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in range(epochs):
            view = views[epoch % len(views)]
            order = np.random.default_rng((seed, epoch)).permutation(len(labels))
            for rows in _chunks_of(order, batch_size, view[0].nbytes):
                yield view[rows], labels[rows]

    return _batches(chunks, views, labels, batch_size, epochs)


def ordered_batches(views: np.ndarray, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Batches of the first view in the order of its rows, once; as for `training_batches`.

    A small array stays in memory from the first time to the next.
    """

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in _chunks_of(np.arange(len(labels)), batch_size, views[0, 0].nbytes):
            yield views[0, rows[0] : rows[-1] + 1], labels[rows]

    dataset = _batches(chunks, views, labels, batch_size, epochs=1)
    return dataset.cache() if views.nbytes <= CACHED_BYTES else dataset


def _chunks_of(order: np.ndarray, batch_size: int, row_bytes: int) -> Iterator[np.ndarray]:
    """Cut `order` into whole numbers of batches of about `CHUNK_BYTES`."""
    rows = batch_size * max(1, CHUNK_BYTES // (batch_size * row_bytes))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def _batches(
    chunks: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    views: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    epochs: int,
) -> tf.data.Dataset:
    signature = (
        tf.TensorSpec((None, *views.shape[2:]), views.dtype),
        tf.TensorSpec((None,), labels.dtype),
    )

    def cut(rows: tf.Tensor, row_labels: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, tf.shape(row_labels, tf.int64)[0], batch_size)
        return starts.map(
            lambda start: (
                rows[start : start + batch_size],
                row_labels[start : start + batch_size],
            )
        )

    dataset = tf.data.Dataset.from_generator(chunks, output_signature=signature)
    count = epochs * -(-len(labels) // batch_size)
    dataset = dataset.flat_map(cut).apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE)


def steps_per_execution(steps_per_epoch: int, largest: int = 200) -> int:
    """How many steps TensorFlow takes before it returns to Python, for steps that take little time.

    Keras begins the next epoch only after whole executions, so it is a divisor of
    `steps_per_epoch`; the largest one up to `largest`.
    """
    return max(count for count in range(1, largest + 1) if steps_per_epoch % count == 0)
