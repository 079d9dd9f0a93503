"""Augment images and run a frozen network on them, with OpenVINO or on a GPU.

Both take groups of batches, uint8 (batches, n, image_size, image_size, channels), the number of the
first batch, and the number of views (None: one, unchanged). They yield float32 (views, images, d)
for each group. The random values of a batch depend on its number, not on its group.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from image_classifier.common.params import PrepareParams
from image_classifier.networks.augmentation import build_augmentation, set_call
from image_classifier.networks.tensorflow_setup import keras, tf
from image_classifier.preparation.inference import build_function

Extract = Callable[[Iterable[np.ndarray], int, int | None], Iterator[np.ndarray]]


def build_on_cpu(network: keras.Model, params: PrepareParams, threads: int) -> Extract:
    """Augment with TensorFlow and run the network with OpenVINO, in turn: both use all cores."""
    infer = build_function(network, threads)
    augmentation = build_augmentation(params, network.input_shape[-1])

    @tf.function(reduce_retracing=True)
    def augment(pixels: tf.Tensor) -> tf.Tensor:
        return augmentation(tf.cast(pixels, tf.float32), training=True)

    def extract_batch(pixels: np.ndarray, number: int, views: int | None) -> np.ndarray:
        if views is None:
            return infer(pixels)[np.newaxis]
        features = []
        for view in range(views):
            set_call(augmentation, number * views + view)
            features.append(infer(augment(pixels).numpy()))
        return np.stack(features)

    def extract(
        groups: Iterable[np.ndarray], number: int, views: int | None
    ) -> Iterator[np.ndarray]:
        for group in groups:
            batches = [
                extract_batch(pixels, number + place, views) for place, pixels in enumerate(group)
            ]
            yield np.concatenate(batches, axis=1)
            number += len(group)

    return extract


def build_on_gpu(network: keras.Model, params: PrepareParams) -> Extract:
    """Augment and run the network in one graph per view of a group, on TensorFlow's first device.

    Features are read back after the next group has been dispatched, so the device has always work.
    If a group does not fit into its memory, this and the following ones are divided.
    """
    augmentation = build_augmentation(params, network.input_shape[-1])
    shape = network.input_shape[1:]
    pixels = tf.TensorSpec((None, None, *shape), tf.uint8)

    def augment(batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        pixels, call = batch
        set_call(augmentation, call)
        return augmentation(tf.cast(pixels, tf.float32), training=True)

    @tf.function(input_signature=[pixels])
    def run(group: tf.Tensor) -> tf.Tensor:
        images = tf.reshape(group, (-1, *shape))
        return network(tf.cast(images, tf.float32), training=False)

    @tf.function(input_signature=[pixels, tf.TensorSpec((None,), tf.int64)])
    def augment_and_run(group: tf.Tensor, calls: tf.Tensor) -> tf.Tensor:
        images = tf.map_fn(
            augment,
            (group, calls),
            # One after the other, because each sets the state of the random layers.
            parallel_iterations=1,
            fn_output_signature=tf.TensorSpec((None, *shape), tf.float32),
        )
        return network(tf.reshape(images, (-1, *shape)), training=False)

    most = None  # batches that fit into the device's memory together

    def dispatch(function: Callable, group: tf.Tensor, *calls: tf.Tensor) -> list[tf.Tensor]:
        nonlocal most
        while True:
            step = most or len(group)
            parts = [slice(start, start + step) for start in range(0, len(group), step)]
            try:
                return [function(group[part], *(call[part] for call in calls)) for part in parts]
            except tf.errors.ResourceExhaustedError:
                if step == 1:
                    raise
                most = min(step, len(group)) // 2

    def extract(
        groups: Iterable[np.ndarray], number: int, views: int | None
    ) -> Iterator[np.ndarray]:
        dispatched: deque[list[list[tf.Tensor]]] = deque()
        for group in map(tf.constant, groups):
            numbers = np.arange(number, number + len(group))
            if views is None:
                dispatched.append([dispatch(run, group)])
            else:
                dispatched.append(
                    [
                        dispatch(augment_and_run, group, tf.constant(numbers * views + view))
                        for view in range(views)
                    ]
                )
            if len(dispatched) > 1:
                yield _read(dispatched.popleft())
            number += len(group)
        for views_of_group in dispatched:
            yield _read(views_of_group)

    return extract


def _read(views: list[list[tf.Tensor]]) -> np.ndarray:
    """Wait for the features of a group's views, which are lists of parts, and read them back."""
    return np.stack([np.concatenate([part.numpy() for part in parts]) for parts in views])
