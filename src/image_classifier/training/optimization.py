"""What a training minimises, and how: loss, optimizer and learning rate."""

import numpy as np

from image_classifier.common.params import Params, TrainParams
from image_classifier.computing.tensorflow_setup import keras, tf

Schedule = keras.optimizers.schedules.LearningRateSchedule
# Decaying biases and the scales of normalisations would not make the function simpler.
NOT_DECAYED = ["bias", "gamma", "beta"]


class FittedNetwork(keras.Model):
    """A network from prepared images to logits, with the loss of `train.*`.

    Only the training uses label smoothing and class weights: validation losses of experiments
    that differ in them can be compared.
    """

    label_smoothing = 0.0
    class_weights: np.ndarray | None = None  # float32 (class_count,)

    def image_losses(self, labels: tf.Tensor, logits: tf.Tensor, training: bool) -> tf.Tensor:
        """The cross-entropy of each image, float32 (n,), in nats.

        Args:
            labels: whole numbers (n,).
            logits: float32 (n, class_count).
            training: whether to smooth the labels and to weight the classes.
        """
        targets = keras.ops.one_hot(labels, logits.shape[-1])
        smoothing = self.label_smoothing if training else 0.0
        losses = keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=smoothing
        )
        if training and self.class_weights is not None:
            losses *= keras.ops.take(self.class_weights, labels)
        return losses

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


def compile_network(network: FittedNetwork, params: Params, labels: np.ndarray) -> Schedule:
    """Compile a network for a training on images with these labels, int64 (n,).

    Returns:
        The learning rate of each step.
    """
    train = params.train
    network.label_smoothing = train.label_smoothing
    if train.class_weights == "balanced":
        network.class_weights = balanced_weights(labels, network.output_shape[-1])
    schedule = build_schedule(train, steps_per_epoch=-(-len(labels) // train.batch_size))
    network.compile(
        optimizer=build_optimizer(train, schedule),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # on a CPU, XLA costs more time than it saves
        # On features a step is so short that Python code between the steps would dominate.
        steps_per_execution=200 if params.model.frozen else 1,
    )
    return schedule


def build_schedule(params: TrainParams, steps_per_epoch: int) -> Schedule:
    """The learning rate by step: a linear warm-up from 0, then a cosine to 0 or a constant.

    `train.stop_after` does not change it: a trial that a sweep stops early was not faster.
    Source of the cosine, here without restarts: Loshchilov and Hutter,
    https://arxiv.org/abs/1608.03983.
    """
    warmup = params.warmup_epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=params.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, params.epochs * steps_per_epoch - warmup),  # 1: all steps warm up
        alpha=0.0 if params.schedule == "cosine" else 1.0,
    )


def build_optimizer(params: TrainParams, schedule: Schedule) -> keras.optimizers.Optimizer:
    """The optimizer `train.optimizer`.

    Weight decay is decoupled from the gradient and multiplied by the learning rate (Loshchilov and
    Hutter, https://arxiv.org/abs/1711.05101); biases and normalisations do not decay.
    """
    if params.optimizer == "adam":
        optimizer = keras.optimizers.Adam(schedule)
    elif params.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=params.weight_decay)
    else:
        optimizer = keras.optimizers.SGD(
            schedule, momentum=params.momentum, weight_decay=params.weight_decay
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
