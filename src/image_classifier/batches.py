"""Feed arrays that may be larger than memory to TensorFlow, in batches, without slow Python."""

from collections.abc import Callable, Iterator

import numpy as np

from image_classifier.tensorflow_setup import tf

CHUNK_BYTES = 4 * 2**20  # read at once by Python; TensorFlow cuts it into batches
CACHED_BYTES = 64 * 2**20  # of an array that is read again after each epoch


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

    def chunks(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng((seed, epoch)).permutation(len(labels))
        for rows in _chunks_of(order, batch_size, views[0, 0].nbytes):
            yield _released(views)[epoch % len(views), rows], labels[rows]

    return _batches(chunks, views, labels, batch_size, epochs)


def ordered_batches(views: np.ndarray, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Batches of the first view in the order of its rows, once; as for `training_batches`.

    A small array stays in memory from the first time to the next.
    """

    def chunks(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in _chunks_of(np.arange(len(labels)), batch_size, views[0, 0].nbytes):
            yield _released(views)[0, rows[0] : rows[-1] + 1], labels[rows]

    dataset = _batches(chunks, views, labels, batch_size, epochs=1)
    return dataset.cache() if views.nbytes <= CACHED_BYTES else dataset


def _chunks_of(order: np.ndarray, batch_size: int, row_bytes: int) -> Iterator[np.ndarray]:
    """Cut `order` into whole numbers of batches of about `CHUNK_BYTES`."""
    rows = batch_size * max(1, CHUNK_BYTES // (batch_size * row_bytes))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def _released(array: np.ndarray) -> np.ndarray:
    """The same array; of one in a file, a new map, for pages that were read count as this process's
    memory for as long as the map that they were read through exists."""
    if not isinstance(array, np.memmap):
        return array
    return np.memmap(array.filename, array.dtype, "r", array.offset, array.shape)


def _batches(
    chunks: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]],
    views: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    epochs: int,
) -> tf.data.Dataset:
    signature = (
        tf.TensorSpec((None, *views.shape[2:]), views.dtype),
        tf.TensorSpec((None,), labels.dtype),
    )

    def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
        read = tf.data.Dataset.from_generator(chunks, args=[epoch], output_signature=signature)
        return read.rebatch(batch_size)

    dataset = tf.data.Dataset.range(epochs).flat_map(batches_of)
    count = epochs * -(-len(labels) // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE)


def steps_per_execution(steps_per_epoch: int, largest: int = 200) -> int:
    """How many steps TensorFlow takes before it returns to Python, for steps that take little time.

    Keras begins the next epoch only after whole executions, so it is a divisor of
    `steps_per_epoch`; the largest one up to `largest`.
    """
    return max(count for count in range(1, largest + 1) if steps_per_epoch % count == 0)
