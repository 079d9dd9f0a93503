"""Networks translated to OpenVINO: they load in a fraction of the time that TensorFlow takes.

Their input is `pixels`, float32 (n, image_size, image_size, channels) with values 0 to 255. A
feature extractor has the output `features`, float32 (n, d), and a whole model in addition
`probabilities`, float32 (n, class_count).
"""

import errno
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from image_classifier.common.errors import InputError

# Disables OpenVINO telemetry, which would report every import.
sys.modules.setdefault("openvino_telemetry", None)
import openvino  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

ROWS_PER_REQUEST = 4  # per core; more is no faster, and leaves some of many cores idle
BEGINNING = b'<?xml version="1.0"?>\n<net name="image_classifier" '
CHECKSUM = ["image_classifier", "weights_checksum"]  # place in the file


def named(
    outputs: dict[str, openvino.Output], parameters: list[openvino.op.Parameter]
) -> openvino.Model:
    """A network of these outputs, by name, and the input `pixels`.

    Names that TensorFlow and OpenVINO have given are removed: they contain the numbers of objects,
    so the same network would be different bytes in a file.
    """
    (parameter,) = parameters
    model = openvino.Model([ops.result(output) for output in outputs.values()], parameters)
    model.set_friendly_name("image_classifier")
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
        for output in node.outputs():
            output.get_tensor().set_names(set())
    parameter.output(0).get_tensor().set_names({"pixels"})
    for name, output in outputs.items():
        output.get_tensor().set_names({name})
    return model


def add_classifier(
    extractor: openvino.Model, kernel: np.ndarray, bias: np.ndarray
) -> openvino.Model:
    """Put a dense layer, float32 (d, class_count) and (class_count,), on a feature extractor."""
    features = extractor.output("features").get_node().input_value(0)
    logits = ops.add(ops.matmul(features, ops.constant(kernel), False, False), ops.constant(bias))
    outputs = {"probabilities": ops.softmax(logits, 1).output(0), "features": features}
    return named(outputs, extractor.get_parameters())


def classifier_of(model: openvino.Model) -> openvino.Model:
    """The part of a whole model from features, float32 (n, d), to probabilities."""
    model = model.clone()
    features = model.output("features").get_node().input_value(0)
    parameter = ops.parameter([-1, features.get_partial_shape()[1].get_length()])
    for target in features.get_target_inputs():
        target.replace_source_output(parameter.output(0))
    result = model.output("probabilities").get_node()
    return openvino.Model([result], [parameter], "classifier")


def build_function(
    model: openvino.Model, output: str, rows: int = ROWS_PER_REQUEST, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Compile a network for this machine, as a function of batches of any size.

    Args:
        model: its input may have any number of rows.
        output: the name of the output that the function returns.
        rows: number of rows that a core processes together.
        threads: number of threads (None: one per core). Results do not depend on it.

    Returns:
        A function from an array (n, ...) of any numeric type to float32 (n, ...).
    """
    shape = model.input(0).get_partial_shape()
    shape[0] = rows
    model = model.clone()
    model.reshape(shape)
    compiled = openvino.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "THROUGHPUT",  # a batch per core, not one batch on all cores
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would use bfloat16
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        },
    )
    position = compiled.output(output)
    # Two threads that each pass OpenVINO its first array can wait for each other forever.
    openvino.Tensor(np.empty(1, np.float32))
    # Threads rather than OpenVINO's own queue, which sometimes hangs when it is deleted.
    own = threading.local()
    pool = ThreadPoolExecutor(
        compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"),
        initializer=lambda: setattr(own, "request", compiled.create_infer_request()),
    )

    def infer(batch: np.ndarray) -> np.ndarray:
        inputs = batch.astype(np.float32, copy=False)
        if len(batch) < rows:
            inputs = np.resize(inputs, (rows, *batch.shape[1:]))
        return own.request.infer([inputs], share_inputs=True)[position][: len(batch)]

    def run(batch: np.ndarray) -> np.ndarray:
        starts = range(0, len(batch), rows)
        parts = pool.map(infer, [batch[start : start + rows] for start in starts])
        return np.concatenate(list(parts))

    return run


def write_model(model: openvino.Model, path: Path) -> None:
    """Write a network to `path`, which ends in .xml, and its weights beside it, in .bin.

    Raises:
        OSError: if the disk is full.
    """
    path.parent.mkdir(exist_ok=True)
    model.set_rt_info(_checksum(model), CHECKSUM)
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream error" not in str(error):
            raise
        # All that OpenVINO says of a write that failed.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def shape_of(port: openvino.Output) -> tuple[int | None, ...]:
    """The shape of an input or output; None for a length that may vary."""
    lengths = port.get_partial_shape()
    return tuple(None if length.is_dynamic else length.get_length() for length in lengths)


def size_of(model: openvino.Model) -> int:
    """Bytes of the weights of a network."""
    return sum(weights.nbytes for weights in _weights(model))


def read_model(path: Path) -> openvino.Model:
    """Read a network that `write_model` wrote.

    Raises:
        InputError: if one of the two files is missing or damaged, or they do not belong together.
    """
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        if not file.is_file():
            raise InputError(f"{file} not found; `dvc exp run` creates it")
    with path.open("rb") as file:
        # OpenVINO would try to read anything else as a file of TensorFlow, ONNX, ...
        if file.read(len(BEGINNING)) != BEGINNING:
            raise InputError(f"{path} is not a model of this repository")
    try:
        model = openvino.Core().read_model(path)
        expected = model.get_rt_info(CHECKSUM).astype(str)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged: {reason}") from None
    if _checksum(model) != expected:
        raise InputError(f"{weights} is damaged, or belongs to another file than {path}")
    return model


def _weights(model: openvino.Model) -> Iterator[np.ndarray]:
    return (node.data for node in model.get_ops() if node.get_type_name() == "Constant")


def _checksum(model: openvino.Model) -> str:
    """Of the weights in any order: OpenVINO may read them in another one."""
    return f"{sum(map(zlib.crc32, _weights(model))):x}"
