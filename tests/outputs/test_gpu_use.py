"""What is read of GPUs, from an imitation of NVIDIA's module that has two."""

import json
from pathlib import Path

import pytest

from helpers.project import REPOSITORY, run_python

NVML = REPOSITORY / "tests/helpers/nvml"
SCRIPT = """
import json
from image_classifier.outputs.gpu_use import GpuUse
gpu_use = GpuUse()
print(json.dumps([gpu_use.read() for _ in range(20)]))
"""
USE, MEMORY = "system/gpu/usage (%)", "system/vram/usage (GB)"


def read(folder: Path, fault: str = "", **environment: str) -> tuple[dict, dict]:
    """The first and the last of 20 readings."""
    path = f"{NVML}:{REPOSITORY / 'src'}"
    done = run_python(
        "-c", SCRIPT, folder=folder, PYTHONPATH=path, IMITATED_NVML=fault, **environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = json.loads(done.stdout)
    return first, last


def test_all_gpus_are_read_together(tmp_path: Path):
    assert read(tmp_path) == ({USE: 60, MEMORY: 7}, {USE: 60, MEMORY: 7})


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", {USE: 60, MEMORY: 7}),
        ("1", {USE: 30, MEMORY: 1}),
        ("GPU-a, GPU-b", {USE: 60, MEMORY: 7}),
        ("GPU-b", {USE: 30, MEMORY: 1}),
        ("", {}),
        ("-1", {}),
        ("2", {}),
        ("GPU-c", {}),
    ],
)
def test_only_gpus_that_cuda_shows_count(tmp_path: Path, visible: str, expected: dict):
    assert read(tmp_path, CUDA_VISIBLE_DEVICES=visible)[0] == expected


@pytest.mark.parametrize("fault", ["no GPU", "driver/library version mismatch"])
def test_without_a_working_gpu_nothing_is_read(tmp_path: Path, fault: str):
    assert read(tmp_path, fault) == ({}, {})


def test_a_gpu_that_fails_is_no_longer_read(tmp_path: Path):
    assert read(tmp_path, "lost") == ({USE: 60, MEMORY: 7}, {})


def test_memory_is_read_where_use_is_not_supported(tmp_path: Path):
    assert read(tmp_path, "use not supported") == ({MEMORY: 7}, {MEMORY: 7})
