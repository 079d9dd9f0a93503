"""Training on several devices, of this machine or of many, each with a part of every batch.

Keras' own `fit` runs. It cannot train with `MultiWorkerMirroredStrategy` by itself (docs/scale.md
says why), and would take the mean of the replicas' means, so a step is made here. A replica is one
device with its copy of the weights.
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
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from image_classifier.common.errors import InputError
from image_classifier.common.strict_yaml import explain
from image_classifier.computing.tensorflow_setup import keras, tf
from image_classifier.outputs.batches import Part
from image_classifier.training.checkpoint import state_variables
from image_classifier.training.classifier import Networks

START_SECONDS = 600  # seconds in which all workers must have been started
RANDOM_LAYERS = (keras.layers.Dropout, keras.layers.RandomFlip, keras.layers.RandomRotation)
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
        """Of all workers, the chief's first."""
        return self.cluster.get("chief", []) + self.cluster.get("worker", [])

    @property
    def number(self) -> int:
        """The place of this worker among them."""
        chiefs = len(self.cluster.get("chief", [])) if self.task.type == "worker" else 0
        return chiefs + self.task.index


class Distribution:
    """The devices that train together, and this process's place among them."""

    def __init__(self, strategy: tf.distribute.Strategy | None, number: int, count: int) -> None:
        """
        Args:
            strategy: None: this process trains alone, in the way that Keras does.
            number: of this process, from 0.
            count: of the processes.
        """
        self._strategy = strategy
        self._number, self._count = number, count
        self.is_chief = number == 0
        """Whether this is the process that logs and saves."""
        self.part: Part | None = None
        """What this process takes of each batch; None: all."""
        if strategy:
            replicas = strategy.num_replicas_in_sync
            self.part = Part(number * (replicas // count), replicas // count, replicas)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Make networks and optimizers in it, so that each device has its copy.

        Raises:
            InputError: as `noticing_losses`.
        """
        with self.noticing_losses(), self._strategy.scope() if self._strategy else nullcontext():
            yield

    def apply(self, networks: Networks) -> Networks:
        """The same weights in networks of which the fitted one trains on all devices.

        The ones given must have been made, and the fitted one compiled, in `scope`.
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
            distributed.prepare(self._strategy, self.part, fitted.optimizer)
        # Anew, outside of the scope: it predicts in this process alone.
        return Networks(distributed, keras.Model(model.input, model.output, name=model.name))

    def first_epoch(self, identity: str | None, finished: int) -> int:
        """Make sure that all workers train the same, and learn where the chief goes on.

        Of the numbers of `finished` epochs the chief's counts.

        Raises:
            InputError: if a worker has something else to train.
        """
        if self._count == 1:
            return finished
        told = np.zeros((self._count, hashlib.sha256().digest_size + 1), np.int64)
        told[self._number] = [*hashlib.sha256(identity.encode()).digest(), finished]
        told = self.add_up([told])[0].numpy()
        others = [number for number, row in enumerate(told) if (row != told[0])[:-1].any()]
        if others:
            raise InputError(
                "TF_CONFIG: found other sources, parameters or prepared data on worker "
                f"{', '.join(map(str, others))} than on the chief, worker 0; allowed: the same"
            )
        return int(told[0, -1])

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What `fit` needs besides; put it after what restores a state."""
        return [StateOfChief(self)] if self._count > 1 else []

    @contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Work in the block with the other workers.

        Raises:
            InputError: if one of them cannot be reached any more.
        """
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as e:
            if self._count == 1:
                raise
            # They hold threads, of which the end of Python would show an error.
            traceback.clear_frames(e.__traceback__)
            gc.collect()
            _, _, reason = e.message.partition("aborted by: ")
            reason = " ".join((reason or e.message).partition("\nAdditional")[0].split())
            raise InputError(
                f"TF_CONFIG: another worker was lost: {reason[:200]}; start the same commands "
                "again on all machines, and the training goes on"
            ) from None

    def add_up(self, tensors: Sequence[tf.Tensor | keras.Variable | np.ndarray]) -> list[tf.Tensor]:
        """The sums over all processes, each of which gives tensors of the same shapes."""

        @tf.function
        def everywhere(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
            return self._strategy.run(of_replica, args=(tensors,))

        def of_replica(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
            replica = tf.distribute.get_replica_context()
            first = replica.replica_id_in_sync_group == self.part.first
            own = [tf.cast(first, tensor.dtype) * tensor for tensor in tensors]
            # One by one: together they would have to be of one type.
            return [replica.all_reduce(tf.distribute.ReduceOp.SUM, tensor) for tensor in own]

        sums = everywhere([tf.convert_to_tensor(tensor) for tensor in tensors])
        return [self._strategy.experimental_local_results(tensor)[0] for tensor in sums]


def open_distribution(strategy: Literal["none", "mirrored", "multi_worker"]) -> Distribution:
    """What `train.strategy` names; of several workers, connected with all the others.

    Raises:
        InputError: if TF_CONFIG does not say who they are, or they cannot be reached.
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
            "TF_CONFIG: not found; train.strategy: multi_worker wants it, as "
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
            f"TF_CONFIG: task.index: found {config.task.index}; the cluster has {tasks} of type "
            f"{config.task.type}, allowed: below {tasks}"
        )
    return config


def _connect(config: _TfConfig) -> tf.distribute.Strategy:
    others = list(config.addresses)
    here = others.pop(config.number)
    print(f"worker {config.number} at {here}: waiting for {len(others)} more", flush=True)
    _wait_for(here, others)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow has taken SIGTERM for itself, to be told of preemptions.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def _wait_for(here: str, others: list[str]) -> None:
    """Wait until all workers wait at their ports, where then TensorFlow takes over.

    It would wait as well, but in native code that holds Python up: not even Ctrl-C would end it.
    """
    try:
        listener = socket.create_server(("", int(here.rpartition(":")[2])))
    except OSError as error:
        raise InputError(
            f"TF_CONFIG: {here}: {error.strerror}; allowed: a free port of this machine"
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
                            "seconds; start all workers, with ports that the others can reach"
                        ) from None
                time.sleep(0.2)


class OfWholeBatch(keras.layers.Wrapper):
    """A random layer that draws for the whole batch, and gives the rows of its replica.

    With one seed the rows then get what they would get on one device.
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


class DistributedNetwork(keras.Model):
    """A network whose steps run on all replicas; the gradients are those of the whole batch."""

    def prepare(
        self, strategy: tf.distribute.Strategy, part: Part, optimizer: keras.optimizers.Optimizer
    ) -> None:
        """Make it ready for `fit`, with all variables: later, steps could make none."""
        self._strategy, self._part = strategy, part
        loss = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="loss")
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        optimizer.build(self.trainable_variables)
        self.compile(optimizer, weighted_metrics=[loss, accuracy], jit_compile=False)

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict:
        pixels, labels, counted, size = self._own_rows(*batch)
        with tf.GradientTape() as tape:
            logits = self(pixels, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            # Of the whole batch the mean, once the optimizer has added up the gradients.
            loss = tf.reduce_sum(counted * losses) / size
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(pixels, labels, logits, counted)

    def test_step(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict:
        pixels, labels, counted, _ = self._own_rows(*batch)
        return self.compute_metrics(pixels, labels, self(pixels, training=False), counted)

    def make_train_function(self, force: bool = False) -> None:
        self.train_function = self.train_function or self._on_all_replicas(self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        self.test_function = self.test_function or self._on_all_replicas(self.test_step)

    def _own_rows(self, pixels: tf.Tensor, labels: tf.Tensor, size: tf.Tensor) -> tuple:
        """The rows of this replica, 1 for those that count and 0 for repeated ones, and `size`."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        length = tf.shape(labels)[0] // self._part.count
        start = (replica - self._part.first) * length
        rows = slice(start, start + length)
        counted = replica * length + tf.range(length) < tf.cast(size, tf.int32)
        return pixels[rows], labels[rows], tf.cast(counted, tf.float32), tf.cast(size, tf.float32)

    def _on_all_replicas(self, step: Callable[[tuple], dict]) -> Callable[[Iterator], dict]:
        @tf.function(reduce_retracing=True)
        def run(iterator: Iterator) -> dict:
            figures = self._strategy.run(step, args=(next(iterator),))
            # Of this process until now. At the end of an epoch Keras reads those of all.
            return {
                name: self._strategy.experimental_local_results(value)[0]
                for name, value in figures.items()
            }

        return run


class StateOfChief(keras.callbacks.Callback):
    """Begin with the weights, random numbers and optimizer of the chief."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self._distribution = distribution

    def on_train_begin(self, logs: dict | None = None) -> None:
        variables = state_variables(self.model)
        own = variables if self._distribution.is_chief else [tf.zeros_like(v) for v in variables]
        for variable, value in zip(variables, self._distribution.add_up(own), strict=True):
            variable.assign(value)
