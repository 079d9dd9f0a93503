"""What a user sees of TensorFlow's start, with imitations of TensorFlow that print as it does."""

import subprocess
from pathlib import Path

import pytest

from helpers.project import REPOSITORY, run_python

NOISE = "I0000 00:00:1700000000.000000 1 port.cc:153] oneDNN custom operations are on."
REASON = "F0000 00:00:1700000000.000000 1 cpu_feature_guard.cc:97] compiled to use AVX"
# Imitates the device file of NVIDIA's driver.
SCRIPT = """
import os
exists = os.path.exists
os.path.exists = lambda path: path == "/dev/nvidiactl" if path[:5] == "/dev/" else exists(path)
os.write(2, b"before\\n")
import image_classifier.networks.tensorflow_setup
os.write(2, b"after\\n")
"""
WARNING = (
    "warning: TensorFlow cannot use this machine's GPU: `pip install 'tensorflow[and-cuda]'` "
    "installs CUDA; with TF_CPP_MIN_LOG_LEVEL=0, TensorFlow prints what is missing"
)


def start(
    folder: Path, gpus: int = 1, then: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """Import the module where `import tensorflow` prints `NOISE` and runs `then`."""
    for name in ("__init__", "src/__init__", "src/backend/__init__", "src/backend/config"):
        path = folder / f"keras/{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (folder / "tensorflow.py").write_text(
        f"import os\n"
        f"os.write(2, b'{NOISE}\\n')\n"
        f"{then}\n"
        "class config:\n"
        "    def list_physical_devices(kind):\n"
        f"        os.write(2, b'{NOISE}\\n')\n"
        f"        return {[f'GPU:{number}' for number in range(gpus)]}\n"
    )
    defaults = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HOME": str(folder),
        "PYTHONPATH": f"{folder}:{REPOSITORY / 'src'}",
    }
    return run_python("-c", SCRIPT, folder=folder, **{**defaults, **environment})


def test_a_gpu_that_is_used_is_not_worth_a_line(tmp_path: Path):
    assert start(tmp_path).stderr.splitlines() == ["before", "after"]


def test_a_gpu_that_cannot_be_used_is_reported_in_one_line(tmp_path: Path):
    assert start(tmp_path, gpus=0).stderr.splitlines() == ["before", WARNING, "after"]
    shown = start(tmp_path, gpus=0, CUDA_VISIBLE_DEVICES="0").stderr
    assert shown.splitlines() == ["before", WARNING, "after"]


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_is_not_missed(tmp_path: Path, hidden: str):
    shown = start(tmp_path, gpus=0, CUDA_VISIBLE_DEVICES=hidden).stderr
    assert shown.splitlines() == ["before", "after"]


def test_the_log_level_shows_everything(tmp_path: Path):
    shown = start(tmp_path, TF_CPP_MIN_LOG_LEVEL="0").stderr
    assert shown.splitlines() == ["before", NOISE, NOISE, "after"]


def test_an_abort_shows_its_reason(tmp_path: Path):
    done = start(tmp_path, then=f"os.write(2, b'{REASON}\\n'); os.abort()")
    assert done.returncode != 0 and done.stderr.splitlines() == ["before", NOISE, REASON]


def test_an_exception_keeps_its_message_alone(tmp_path: Path):
    done = start(tmp_path, then="raise ImportError('libtensorflow_cc.so.2 not found')")
    assert done.returncode == 1 and NOISE not in done.stderr
    assert done.stderr.splitlines()[-1] == "ImportError: libtensorflow_cc.so.2 not found"


def test_tensorflow_itself_prints_nothing():
    environment = {"PYTHONPATH": str(REPOSITORY / "src"), "CUDA_VISIBLE_DEVICES": "-1"}
    script = "from image_classifier.networks.tensorflow_setup import tf; tf.ones(2) + tf.ones(2)"
    done = run_python("-c", script, folder=REPOSITORY, **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
