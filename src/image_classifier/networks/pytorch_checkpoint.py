"""Read tensors from an old PyTorch checkpoint (before version 1.6), without PyTorch.

Such a file is a sequence of pickles, followed by the numbers. A pickle can call any function by
name, so this reader allows only the names that tensors need: loading executes no code from the
file. For the layout, see `torch.serialization._legacy_load`.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
STORAGE_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor(NamedTuple):
    """A tensor's description in a checkpoint: a view of a storage, whose numbers follow later."""

    storage_key: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"refused: it names {module}.{name}")

    def persistent_load(self, storage: tuple) -> tuple[str, np.dtype]:
        _, dtype, key, *_ = storage
        return key, dtype


def _rebuild_tensor(
    storage: tuple, offset: int, shape: tuple, strides: tuple, requires_grad: bool, hooks: object
) -> _Tensor:
    return _Tensor(*storage, offset, shape, strides)


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Read a state dictionary: tensor name -> float32 or int64 array of the tensor's shape.

    Raises:
        pickle.UnpicklingError: if the file has another format, or names anything but tensors.
        ValueError: if a tensor extends beyond the numbers in the file.
    """
    with path.open("rb") as file:
        if _unpickle(file) != MAGIC_NUMBER or _unpickle(file) != PROTOCOL_VERSION:
            raise pickle.UnpicklingError("not a PyTorch checkpoint of the old format")
        _unpickle(file)  # sizes of C types on the machine that wrote it
        tensors = _unpickle(file)
        dtypes = {tensor.storage_key: tensor.dtype for tensor in tensors.values()}
        storages = {}
        for key in _unpickle(file):
            count = int(np.fromfile(file, "<i8", 1)[0])
            storages[key] = np.fromfile(file, dtypes[key], count)
    return {name: _array(storages[tensor.storage_key], tensor) for name, tensor in tensors.items()}


def _unpickle(file: BinaryIO) -> object:
    return _TensorUnpickler(file).load()


def _array(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    size = storage.itemsize
    strides = [stride * size for stride in tensor.strides]
    # np.ndarray checks that the view is inside the buffer.
    view = np.ndarray(tensor.shape, tensor.dtype, storage, tensor.offset * size, strides)
    return view.copy()
