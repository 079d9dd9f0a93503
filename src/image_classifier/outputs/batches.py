"""Feed arrays that may be larger than memory to TensorFlow, in batches, without slow Python."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from image_classifier.computing.prepared import Shards
from image_classifier.computing.tensorflow_setup import tf

Views = Shards | np.ndarray

CHUNK_BYTES = 4 * 2**20  # read at once by Python; TensorFlow cuts it into batches
CACHED_BYTES = 64 * 2**20  # of an array that is read again after each epoch


class Part(NamedTuple):
    """The replicas that one process trains, of all between which each batch is divided.

    A batch is cut into as many runs of rows, of equal length, as there are replicas; its last row
    is repeated at the end if need be.
    """

    first: int  # number of the first of them, from 0
    count: int
    of: int  # replicas altogether

    def rows(self, order: np.ndarray, batch_size: int) -> np.ndarray:
        """What they take of each batch of an order, one batch after the other."""
        taken = []
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            length = self.length(len(batch))
            rows = np.arange(self.first * length, (self.first + self.count) * length)
            taken.append(batch[rows.clip(max=len(batch) - 1)])
        return np.concatenate(taken)

    def length(self, batch_size: int) -> int:
        """How many rows of a batch each replica takes."""
        return -(-batch_size // self.of)


def training_batches(
    views: Views,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    part: Part | None = None,
) -> tf.data.Dataset:
    """Batches of one epoch, in an order of its own each time that they are gone through.

    An epoch uses one view: the first epoch the first, and so on in turn. With as many views as
    epochs this is what augmentation while training would give.

    Args:
        views: (views, n, ...) of any numeric type.
        labels: int64 (n,).
        batch_size: the last batch may have fewer rows.
        seed: decides the orders, together with the number of the epoch.
        first_epoch: number of the epoch that is first asked for, from 0.
        part: what of each batch to give; None: all.

    Returns:
        Pairs of (batch_size, ...) and (batch_size,), ceil(n / batch_size) of them; with a part,
        (part.count * part.length(batch_size), ...) and so on, and the size of the whole batch.
    """
    epochs = itertools.count(first_epoch)

    def view_and_order() -> tuple[int, np.ndarray]:
        epoch = next(epochs)
        return epoch % len(views), np.random.default_rng((seed, epoch)).permutation(len(labels))

    return _batches(view_and_order, views, labels, batch_size, part)


def ordered_batches(
    views: Views, labels: np.ndarray, batch_size: int, part: Part | None = None
) -> tf.data.Dataset:
    """Batches of the first view in the order of its rows; as for `training_batches`.

    A small array stays in memory from the first time to the next.
    """
    dataset = _batches(lambda: (0, np.arange(len(labels))), views, labels, batch_size, part)
    return dataset.cache() if views.nbytes <= CACHED_BYTES else dataset


def _chunks_of(order: np.ndarray, batch_size: int, row_bytes: int) -> Iterator[np.ndarray]:
    """Cut `order` into whole numbers of batches of about `CHUNK_BYTES`."""
    rows = batch_size * max(1, CHUNK_BYTES // (batch_size * row_bytes))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def _batches(
    view_and_order: Callable[[], tuple[int, np.ndarray]],
    views: Views,
    labels: np.ndarray,
    batch_size: int,
    part: Part | None,
) -> tf.data.Dataset:
    """Batches of a view in an order, both of which are asked for at the start of each epoch."""

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        view, order = view_and_order()
        if part:
            order = part.rows(order, batch_size)
        for rows in _chunks_of(order, batch_size, views[0, 0].nbytes):
            # A slice is read faster.
            read = slice(rows[0], rows[-1] + 1) if (np.diff(rows) == 1).all() else rows
            yield views[view, read], labels[rows]

    signature = (
        tf.TensorSpec((None, *views.shape[2:]), views.dtype),
        tf.TensorSpec((None,), labels.dtype),
    )
    dataset = tf.data.Dataset.from_generator(chunks, output_signature=signature)
    dataset = dataset.rebatch(part.count * part.length(batch_size) if part else batch_size)
    if part:
        sizes = tf.data.Dataset.range(len(labels), 0, -batch_size).map(
            lambda left: tf.minimum(left, batch_size)
        )
        dataset = tf.data.Dataset.zip(dataset, sizes).map(lambda pair, size: (*pair, size))
    count = -(-len(labels) // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    # The thread that tunes sleeps for longer and longer, and the end of an epoch may wait for it:
    # epochs of 6 seconds took 10.23, the sum of its first ten sleeps.
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
