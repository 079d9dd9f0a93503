"""Feed arrays that may be larger than memory to TensorFlow in batches, with little Python code."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from image_classifier.computing.prepared import Shards
from image_classifier.networks.tensorflow_setup import tf

Views = Shards | np.ndarray

CHUNK_BYTES = 4 * 2**20  # read by Python at once; TensorFlow splits it into batches
CACHED_BYTES = 64 * 2**20  # largest array that stays in memory between epochs


class Part(NamedTuple):
    """The replicas of this process, out of all replicas that share each batch.

    A batch is split into one run of rows per replica, all of equal length; if necessary, the last
    row is repeated to fill the last runs.
    """

    first: int  # number of this process's first replica, from 0
    count: int
    of: int  # total number of replicas

    def rows(self, order: np.ndarray, batch_size: int) -> np.ndarray:
        """The rows that this process takes from each batch of `order`, concatenated."""
        taken = []
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            length = self.length(len(batch))
            rows = np.arange(self.first * length, (self.first + self.count) * length)
            taken.append(batch[rows.clip(max=len(batch) - 1)])
        return np.concatenate(taken)

    def length(self, batch_size: int) -> int:
        """The number of rows that each replica takes from a batch."""
        return -(-batch_size // self.of)


def training_batches(
    views: Views,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    part: Part | None = None,
) -> tf.data.Dataset:
    """Batches of one epoch, in a different order each time the dataset is iterated.

    Each epoch uses one view, in turn. With as many views as epochs this is equivalent to
    augmentation during training.

    Args:
        views: (views, n, ...) of any numeric type.
        labels: int64 (n,).
        batch_size: the last batch may have fewer rows.
        seed: determines the orders, together with the number of the epoch.
        first_epoch: number of the epoch that the first iteration gives, from 0.
        part: the part of each batch to give; None: the whole batch.

    Returns:
        ceil(n / batch_size) pairs of (batch_size, ...) and (batch_size,); with a part, triples of
        (part.count * part.length(batch_size), ...), the labels, and the size of the whole batch.
    """
    epochs = itertools.count(first_epoch)

    return _batches(
        lambda: training_order(views, seed, next(epochs)), views, labels, batch_size, part
    )


def ordered_batches(
    views: Views, labels: np.ndarray, batch_size: int, part: Part | None = None
) -> tf.data.Dataset:
    """Batches like those of `training_batches`, but of the first view in the order of its rows.

    Arrays of up to `CACHED_BYTES` stay in memory between iterations.
    """
    dataset = _batches(lambda: (0, np.arange(len(labels))), views, labels, batch_size, part)
    return dataset.cache() if views.nbytes <= CACHED_BYTES else dataset


def training_order(views: Views, seed: int, epoch: int) -> tuple[int, np.ndarray]:
    """The view of an epoch, counted from 0, and the order of its rows, int64 (n,)."""
    return epoch % len(views), np.random.default_rng((seed, epoch)).permutation(views.shape[1])


def split_order(order: np.ndarray, batch_size: int, row_bytes: int) -> list[np.ndarray]:
    """Split `order` into chunks of about `CHUNK_BYTES`, each a whole number of batches."""
    rows = batch_size * max(1, CHUNK_BYTES // (batch_size * row_bytes))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def _batches(
    view_and_order: Callable[[], tuple[int, np.ndarray]],
    views: Views,
    labels: np.ndarray,
    batch_size: int,
    part: Part | None,
) -> tf.data.Dataset:
    """Batches of the view and in the order that `view_and_order` returns at each epoch's start."""

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        view, order = view_and_order()
        if part:
            order = part.rows(order, batch_size)
        for rows in split_order(order, batch_size, views[0, 0].nbytes):
            # Reading a slice is faster.
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
    # The autotuning thread sleeps for longer and longer, and the end of an epoch may wait for it:
    # epochs of 6 s took 10.23 s, the sum of its first ten sleeps.
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
