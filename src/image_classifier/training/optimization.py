"""What a training minimises, and how: loss, optimizer and learning rate."""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from image_classifier.common.params import Params, TrainParams
from image_classifier.networks.tensorflow_setup import keras, tf

# Decaying biases and the scales of normalisations would not make the function simpler.
NOT_DECAYED = ["bias", "gamma", "beta"]


def number(value: float | np.ndarray) -> tf.Variable:
    """A parameter of a training that steps read, and do not change."""
    return tf.Variable(value, trainable=False, dtype=tf.float32)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate by step: a linear warm-up from 0, then a cosine to 0 or a constant.

    `train.stop_after` does not change it: a trial that a sweep stops early was not faster.
    Source of the cosine, here without restarts: Loshchilov and Hutter,
    https://arxiv.org/abs/1608.03983.
    """

    def __init__(self, params: TrainParams, steps_per_epoch: int) -> None:
        warmup = params.warmup_epochs * steps_per_epoch
        self.numbers = [
            number(params.learning_rate),
            number(warmup),
            number(max(1, params.epochs * steps_per_epoch - warmup)),  # 1: all steps warm up
            number(0 if params.schedule == "cosine" else 1),  # the share of the rate that stays
        ]

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        highest, warmup, decay, rest = self.numbers
        step = tf.cast(step, tf.float32)
        cosine = (1 + tf.cos(math.pi * tf.minimum((step - warmup) / decay, 1))) / 2
        falling = (1 - rest) * cosine + rest
        return highest * tf.where(step < warmup, step / tf.maximum(warmup, 1), falling)


class Dropout(keras.layers.Layer):
    """Keras' dropout, with a rate that can be changed in a compiled network."""

    def __init__(self, rate: float, name: str) -> None:
        super().__init__(name=name)
        self.rate = number(rate)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        # As `keras.random.dropout`, which takes no variable.
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed)


class FittedNetwork(keras.Model):
    """A network from prepared images to logits, with the loss of `train.*`.

    Only the training uses label smoothing and class weights: validation losses of experiments
    that differ in them can be compared.

    Tracing the steps takes longer than a training on features. So parameters that are `numbers` are
    variables: trials that differ only in them share one network.
    """

    label_smoothing: tf.Variable
    class_weights: tf.Variable  # float32 (class_count,)
    schedule: Schedule
    weight_decay: tf.Variable

    @property
    def numbers(self) -> list[tf.Variable]:
        """The parameters that may differ between trainings with the same steps."""
        rates = [layer.rate for layer in self.layers if isinstance(layer, Dropout)]
        loss = [self.label_smoothing, self.class_weights]
        return [*rates, *loss, *self.schedule.numbers, self.weight_decay]

    def image_losses(self, labels: tf.Tensor, logits: tf.Tensor, training: bool) -> tf.Tensor:
        """The cross-entropy of each image, float32 (n,), in nats.

        Args:
            labels: whole numbers (n,).
            logits: float32 (n, class_count).
            training: whether to smooth the labels and to weight the classes.
        """
        if not training:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        class_count = logits.shape[-1]
        targets = tf.one_hot(labels, class_count) * (1 - self.label_smoothing)
        targets += self.label_smoothing / class_count
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        return losses * tf.gather(self.class_weights, labels)

    def compute_loss(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: None,
        training: bool = True,
    ) -> tf.Tensor:
        """The loss of a batch for Keras' own steps."""
        return keras.ops.mean(self.image_losses(y, y_pred, training))

    @cached_property
    def train_batches(self) -> Callable[[np.ndarray, np.ndarray, int], dict[str, tf.Tensor]]:
        """Train on features, (n, d), and labels, int64 (n,), in batches of a size.

        Returns the metrics so far.
        """

        def run(features: tf.Tensor, labels: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
            def train(start: tf.Tensor) -> list[tf.Tensor]:
                batch = slice(start, start + size)
                self.train_step((features[batch], labels[batch]))
                return [start + size]

            count = tf.size(labels)
            tf.while_loop(lambda start: start < count, train, [0], parallel_iterations=1)
            return self.get_metrics_result()

        signature = [*self._signature, tf.TensorSpec((), tf.int32)]
        return tf.function(run, signature, autograph=False)

    @cached_property
    def test_batch(self) -> Callable[[np.ndarray, np.ndarray], dict[str, tf.Tensor]]:
        """Evaluate features, (n, d), and labels, int64 (n,); returns the metrics so far."""
        return tf.function(lambda *batch: self.test_step(batch), self._signature, autograph=False)

    @property
    def _signature(self) -> list[tf.TensorSpec]:
        return [tf.TensorSpec(self.input_shape, tf.float32), tf.TensorSpec((None,), tf.int64)]


def compile_network(network: FittedNetwork, params: Params, labels: np.ndarray) -> Schedule:
    """Compile a network for a training on images with these labels, int64 (n,).

    Returns:
        The learning rate of each step.
    """
    train, class_count = params.train, network.output_shape[-1]
    weights = np.ones(class_count, np.float32)
    if train.class_weights == "balanced":
        weights = balanced_weights(labels, class_count)
    network.label_smoothing = number(train.label_smoothing)
    network.class_weights = number(weights)
    network.weight_decay = number(train.weight_decay)
    network.schedule = Schedule(train, steps_per_epoch=-(-len(labels) // train.batch_size))
    network.compile(
        optimizer=build_optimizer(train, network.schedule, network.weight_decay),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # on a CPU, XLA costs more time than it saves
    )
    # A step that created variables would be traced twice.
    network.optimizer.build(network.trainable_variables)
    return network.schedule


def build_optimizer(
    params: TrainParams, schedule: Schedule, weight_decay: tf.Variable
) -> keras.optimizers.Optimizer:
    """The optimizer `train.optimizer`; adam has no weight decay.

    Weight decay is decoupled from the gradient and multiplied by the learning rate (Loshchilov and
    Hutter, https://arxiv.org/abs/1711.05101); biases and normalisations do not decay.
    """
    if params.optimizer == "adam":
        optimizer = keras.optimizers.Adam(schedule)
    elif params.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    else:
        optimizer = keras.optimizers.SGD(
            schedule, momentum=params.momentum, weight_decay=weight_decay
        )
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


def balanced_weights(labels: np.ndarray, class_count: int) -> np.ndarray:
    """Weights with which each class counts equally, float32 (class_count,).

    They are n / (classes * images of the class), so that their mean over the images is 1. A class
    without training images has weight 1.
    """
    from sklearn.utils.class_weight import compute_class_weight  # which takes a second to load

    present = np.unique(labels)
    weights = np.ones(class_count, np.float32)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return weights
