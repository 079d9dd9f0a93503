"""Feed arrays that may be larger than memory to TensorFlow, in batches, without slow Python."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from image_classifier.prepared import Shards
from image_classifier.tensorflow_setup import tf

Views = Shards | np.ndarray

CHUNK_BYTES = 4 * 2**20  # read at once by Python; TensorFlow cuts it into batches
CACHED_BYTES = 64 * 2**20  # of an array that is read again after each epoch


def training_batches(
    views: Views, labels: np.ndarray, batch_size: int, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """Batches of one epoch, in an order of its own each time that they are gone through.

    An epoch uses one view: the first epoch the first, and so on in turn. With as many views as
    epochs this is what augmentation while training would give.

    Args:
        views: (views, n, ...) of any numeric type.
        labels: int64 (n,).
        batch_size: rows per batch; the last batch may have fewer.
        seed: decides the orders, together with the number of the epoch.
        first_epoch: number of the epoch that is first asked for, from 0.

    Returns:
        Pairs of (batch_size, ...) and (batch_size,), ceil(n / batch_size) of them.
    """
    epochs = itertools.count(first_epoch)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        epoch = next(epochs)
        order = np.random.default_rng((seed, epoch)).permutation(len(labels))
        for rows in _chunks_of(order, batch_size, views[0, 0].nbytes):
            yield views[epoch % len(views), rows], labels[rows]

    return _batches(chunks, views, labels, batch_size)


def ordered_batches(views: Views, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Batches of the first view in the order of its rows; as for `training_batches`.

    A small array stays in memory from the first time to the next.
    """

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in _chunks_of(np.arange(len(labels)), batch_size, views[0, 0].nbytes):
            yield views[0, rows[0] : rows[-1] + 1], labels[rows]

    dataset = _batches(chunks, views, labels, batch_size)
    return dataset.cache() if views.nbytes <= CACHED_BYTES else dataset


def _chunks_of(order: np.ndarray, batch_size: int, row_bytes: int) -> Iterator[np.ndarray]:
    """Cut `order` into whole numbers of batches of about `CHUNK_BYTES`."""
    rows = batch_size * max(1, CHUNK_BYTES // (batch_size * row_bytes))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def _batches(
    chunks: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    views: Views,
    labels: np.ndarray,
    batch_size: int,
) -> tf.data.Dataset:
    signature = (
        tf.TensorSpec((None, *views.shape[2:]), views.dtype),
        tf.TensorSpec((None,), labels.dtype),
    )
    dataset = tf.data.Dataset.from_generator(chunks, output_signature=signature).rebatch(batch_size)
    count = -(-len(labels) // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    # The thread that tunes sleeps for longer and longer, and the end of an epoch may wait for it:
    # epochs of 6 seconds took 10.23, the sum of its first ten sleeps.
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
