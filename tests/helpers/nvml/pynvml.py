# ruff: noqa: N802 (NVIDIA's names)
"""An imitation of NVIDIA's module for a machine with two GPUs; put its folder on PYTHONPATH.

The environment variable IMITATED_NVML chooses what goes wrong.
"""

import os
from types import SimpleNamespace

FAULT = os.environ["IMITATED_NVML"]
GIGABYTE = 2**30
GPUS = {"GPU-a": (90, 6 * GIGABYTE), "GPU-b": (30, 1 * GIGABYTE)}  # use, memory in use
_read = 0


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    if FAULT == "driver/library version mismatch":
        raise NVMLError(FAULT)


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return 0 if FAULT == "no GPU" else len(GPUS)


def nvmlDeviceGetHandleByIndex(index: int) -> str:
    if index >= nvmlDeviceGetCount():
        raise NVMLError("invalid argument")
    return list(GPUS)[index]


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    if uuid not in GPUS:
        raise NVMLError("not found")
    return uuid


def nvmlDeviceGetUtilizationRates(gpu: str) -> SimpleNamespace:
    if FAULT == "use not supported":
        raise NVMLError(FAULT)
    _check()
    return SimpleNamespace(gpu=GPUS[gpu][0], memory=5)


def nvmlDeviceGetMemoryInfo(gpu: str) -> SimpleNamespace:
    _check()
    return SimpleNamespace(used=GPUS[gpu][1], total=80 * GIGABYTE)


def _check() -> None:
    global _read
    _read += 1
    if FAULT == "lost" and _read > 40:
        raise NVMLError("GPU is lost")
