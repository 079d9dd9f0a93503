"""Train on several devices of one or several machines, each with a part of every batch.

Keras' `fit` cannot train with `MultiWorkerMirroredStrategy` by itself, as docs/cluster.md explains,
and would average the means of the replicas. So this module gives `fit` its own training step. A
replica is one device with its copy of the weights.
"""

import gc
import hashlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from image_classifier.common.errors import InputError
from image_classifier.common.strict_yaml import explain
from image_classifier.networks.tensorflow_setup import keras, tf
from image_classifier.training.batches import Part
from image_classifier.training.checkpoint import state_variables
from image_classifier.training.classifier import Networks
from image_classifier.training.optimization import Dropout, FittedNetwork

START_SECONDS = 600  # all workers must have been started within this time
RANDOM_LAYERS = (
    Dropout,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomZoom,
    keras.layers.RandomTranslation,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
)
Job = Literal["chief", "worker"]
Address = Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$")]
Addresses = Annotated[
    list[Address], Field(min_length=1, description="a list of addresses, each as host:2222")
]


class _Task(BaseModel):
    type: Job
    index: Annotated[int, Field(ge=0)]


class _TfConfig(BaseModel):
    """https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver"""

    model_config = ConfigDict(strict=True)

    cluster: dict[Job, Addresses]
    task: _Task

    @property
    def addresses(self) -> list[str]:
        """The addresses of all workers, the chief's first."""
        return self.cluster.get("chief", []) + self.cluster.get("worker", [])

    @property
    def number(self) -> int:
        """The position of this worker in `addresses`."""
        chiefs = len(self.cluster.get("chief", [])) if self.task.type == "worker" else 0
        return chiefs + self.task.index


class Distribution:
    """The devices that train together, and this process's part in it."""

    def __init__(self, strategy: tf.distribute.Strategy | None, number: int, count: int) -> None:
        """
        Args:
            strategy: None: this process trains alone, with Keras's own training step.
            number: the number of this process, from 0.
            count: the number of processes.
        """
        self._strategy = strategy
        self._number, self._count = number, count
        self.is_chief = number == 0
        """Whether this is the process that logs and saves."""
        self.part: Part | None = None
        """The part of each batch that this process takes; None: the whole batch."""
        if strategy:
            replicas = strategy.num_replicas_in_sync
            self.part = Part(number * (replicas // count), replicas // count, replicas)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """The block in which to create networks and optimizers, so that each device has a copy.

        Raises:
            InputError: as for `noticing_losses`.
        """
        with self.noticing_losses(), self._strategy.scope() if self._strategy else nullcontext():
            yield

    def apply(self, networks: Networks) -> Networks:
        """Return networks with the same weights, of which the fitted one trains on all devices.

        `networks` must have been created, and the fitted one compiled, in `scope`.
        """
        if not self._strategy:
            return networks
        fitted, model = networks
        outputs = fitted.input
        for part in fitted.layers[1:]:
            for layer in part.layers if isinstance(part, keras.Sequential) else [part]:
                random = isinstance(layer, RANDOM_LAYERS)
                outputs = (OfWholeBatch(layer) if random else layer)(outputs)
        distributed = DistributedNetwork(fitted.input, outputs)
        with self.scope():
            distributed.prepare(self._strategy, self.part, fitted)
        # The model is created again outside the scope, because it predicts in this process alone.
        return Networks(distributed, keras.Model(model.input, model.output, name=model.name))

    def first_epoch(self, identity: str | None, finished: int) -> int:
        """Check that all workers train the same, and return the epoch at which the chief resumes.

        Args:
            identity: a hash of everything that the training depends on, on this worker.
            finished: the number of epochs finished on this worker; only the chief's is used.

        Raises:
            InputError: if the `identity` of a worker differs from the chief's.
        """
        if self._count == 1:
            return finished
        reported = np.zeros((self._count, hashlib.sha256().digest_size + 1), np.int64)
        reported[self._number] = [*hashlib.sha256(identity.encode()).digest(), finished]
        reported = self.add_up([reported])[0].numpy()
        differing = [n for n, row in enumerate(reported) if (row != reported[0])[:-1].any()]
        if differing:
            raise InputError(
                "TF_CONFIG: found different sources, parameters or prepared data on worker "
                f"{', '.join(map(str, differing))}; allowed: the same as on the chief, worker 0"
            )
        return int(reported[0, -1])

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Additional callbacks for `fit`; place them after callbacks that restore a state."""
        return [FollowChief(self)] if self._count > 1 else []

    @contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """A block that communicates with the other workers.

        Raises:
            InputError: if another worker is no longer reachable.
        """
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as e:
            if self._count == 1:
                raise
            # The frames keep threads alive, which would cause an error message when Python exits.
            traceback.clear_frames(e.__traceback__)
            gc.collect()
            _, _, reason = e.message.partition("aborted by: ")
            reason = " ".join((reason or e.message).partition("\nAdditional")[0].split())
            raise InputError(
                f"TF_CONFIG: another worker was lost: {reason[:200]}; run the same commands again "
                "on all machines to resume the training"
            ) from None

    def add_up(self, tensors: Sequence[tf.Tensor | keras.Variable | np.ndarray]) -> list[tf.Tensor]:
        """Sum tensors over all processes; every process passes tensors of the same shapes."""
        sums = self._add_up([tf.convert_to_tensor(tensor) for tensor in tensors])
        return [self._strategy.experimental_local_results(tensor)[0] for tensor in sums]

    @cached_property
    def _add_up(self) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
        def of_replica(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
            replica = tf.distribute.get_replica_context()
            first = replica.replica_id_in_sync_group == self.part.first
            own = [tf.cast(first, tensor.dtype) * tensor for tensor in tensors]
            # One by one: reduced together, they would have to be of one type.
            return [replica.all_reduce(tf.distribute.ReduceOp.SUM, tensor) for tensor in own]

        return tf.function(lambda tensors: self._strategy.run(of_replica, args=(tensors,)))


def open_distribution(strategy: Literal["none", "mirrored", "multi_worker"]) -> Distribution:
    """Open the distribution `train.strategy`; with several workers, connect to all of them.

    Raises:
        InputError: if TF_CONFIG is missing or invalid, or a worker cannot be reached.
    """
    if strategy == "none":
        return Distribution(None, 0, 1)
    if strategy == "mirrored":
        return Distribution(tf.distribute.MirroredStrategy(), 0, 1)
    config = _read_tf_config()
    return Distribution(_connect(config), config.number, len(config.addresses))


def _read_tf_config() -> _TfConfig:
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise InputError(
            "TF_CONFIG: not found; train.strategy: multi_worker requires it, for example "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}'
        )
    try:
        config = _TfConfig.model_validate_json(text)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            reasons = [f"not valid JSON: {error.errors()[0]['ctx']['error']}"]
        else:
            reasons = explain(error, _TfConfig)
        raise InputError("\n       ".join(f"TF_CONFIG: {reason}" for reason in reasons)) from None
    tasks = len(config.cluster.get(config.task.type, []))
    if config.task.index >= tasks:
        raise InputError(
            f"TF_CONFIG: task.index: found {config.task.index}; the cluster has {tasks} tasks of "
            f"type {config.task.type}, allowed: below {tasks}"
        )
    return config


def _connect(config: _TfConfig) -> tf.distribute.Strategy:
    others = list(config.addresses)
    here = others.pop(config.number)
    print(f"worker {config.number} at {here}: waiting for {len(others)} more", flush=True)
    _wait_for(here, others)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow has replaced the SIGTERM handler to be notified of preemptions.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def _wait_for(here: str, others: list[str]) -> None:
    """Wait until all workers listen at their ports; then TensorFlow takes over.

    TensorFlow would wait too, but in native code that blocks Python, so not even Ctrl-C would work.
    """
    try:
        listener = socket.create_server(("", int(here.rpartition(":")[2])))
    except OSError as error:
        raise InputError(
            f"TF_CONFIG: {here}: {error.strerror}; allowed: a free port on this machine"
        ) from None
    deadline = time.monotonic() + START_SECONDS
    with listener:
        for address in others:
            host, _, port = address.rpartition(":")
            while True:
                try:
                    socket.create_connection((host, int(port)), timeout=5).close()
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise InputError(
                            f"TF_CONFIG: {address}: {error.strerror or error} for {START_SECONDS} "
                            "seconds; start all workers, on ports that the others can reach"
                        ) from None
                time.sleep(0.2)


class OfWholeBatch(keras.layers.Wrapper):
    """A random layer that draws for the whole batch and returns the rows of its replica.

    With the same seed, each row gets the same random numbers as on a single device.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        replica = tf.distribute.get_replica_context()
        length = tf.shape(inputs)[0]
        start = length * replica.replica_id_in_sync_group
        end = length * replica.num_replicas_in_sync
        rows = [[start, end - start - length]]
        whole = tf.pad(inputs, rows + [[0, 0]] * (len(inputs.shape) - 1))
        return self.layer(whole, training=True)[start : start + length]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


class DistributedNetwork(FittedNetwork):
    """A network whose steps run on all replicas, with gradients of the whole batch."""

    def prepare(
        self, strategy: tf.distribute.Strategy, part: Part, compiled: FittedNetwork
    ) -> None:
        """Compile like `compiled`; all variables exist now, as steps cannot create any."""
        self._strategy, self._part = strategy, part
        self.label_smoothing = compiled.label_smoothing
        self.class_weights = compiled.class_weights
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.compile(compiled.optimizer, weighted_metrics=[accuracy], jit_compile=False)
        self.mean_loss = keras.metrics.Mean(name="loss")

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict:
        pixels, labels, counted, size = self._own_rows(*batch)
        with tf.GradientTape() as tape:
            logits = self(pixels, training=True)
            losses = self.image_losses(labels, logits, training=True)
            # Becomes the mean of the whole batch when the optimizer sums the gradients.
            loss = tf.reduce_sum(counted * losses) / size
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.mean_loss.update_state(losses, counted)
        return self.compute_metrics(pixels, labels, logits, counted)

    def test_step(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict:
        pixels, labels, counted, _ = self._own_rows(*batch)
        logits = self(pixels, training=False)
        self.mean_loss.update_state(self.image_losses(labels, logits, training=False), counted)
        return self.compute_metrics(pixels, labels, logits, counted)

    def make_train_function(self, force: bool = False) -> None:
        self.train_function = self.train_function or self._on_all_replicas(self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        self.test_function = self.test_function or self._on_all_replicas(self.test_step)

    def _own_rows(self, pixels: tf.Tensor, labels: tf.Tensor, size: tf.Tensor) -> tuple:
        """The rows of this replica, their weights (0 for repeated rows, else 1), and `size`."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        length = tf.shape(labels)[0] // self._part.count
        start = (replica - self._part.first) * length
        rows = slice(start, start + length)
        counted = replica * length + tf.range(length) < tf.cast(size, tf.int32)
        return pixels[rows], labels[rows], tf.cast(counted, tf.float32), tf.cast(size, tf.float32)

    def _on_all_replicas(self, step: Callable[[tuple], dict]) -> Callable[[Iterator], dict]:
        @tf.function(reduce_retracing=True)
        def run(iterator: Iterator) -> dict:
            metrics = self._strategy.run(step, args=(next(iterator),))
            # This process's running metrics; at the end of an epoch Keras reads the global ones.
            return {
                name: self._strategy.experimental_local_results(value)[0]
                for name, value in metrics.items()
            }

        return run


class FollowChief(keras.callbacks.Callback):
    """Start every worker with the chief's weights, random number state and optimizer state.

    And stop when the chief stops, which alone knows the best epoch from before an interruption.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self._distribution = distribution

    def on_train_begin(self, logs: dict | None = None) -> None:
        variables = state_variables(self.model)
        own = variables if self._distribution.is_chief else [tf.zeros_like(v) for v in variables]
        for variable, value in zip(variables, self._distribution.add_up(own), strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        stops = np.int64(self._distribution.is_chief and self.model.stop_training)
        (stop,) = self._distribution.add_up([stops])
        self.model.stop_training = bool(stop)
