"""Read the use and the memory of the NVIDIA GPUs that this process may use."""

import os
from statistics import fmean

import pynvml

GIGABYTE = 1024**3


class GpuUse:
    """Readings of all GPUs together, so that each number of GPUs gives the same names."""

    def __init__(self) -> None:
        gpus = _visible_gpus()
        self._readings = {
            "system/gpu/usage (%)": lambda: fmean(
                pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in gpus
            ),
            "system/vram/usage (GB)": lambda: sum(
                pynvml.nvmlDeviceGetMemoryInfo(gpu).used / GIGABYTE for gpu in gpus
            ),
        }
        if not gpus:
            self._readings.clear()

    def read(self) -> dict[str, float]:
        """Name -> mean use of the GPUs in percent, and their memory in use in GB.

        Without a GPU or its driver, both are missing. A value that cannot be read, as the use of a
        part of a GPU, is missing from then on.
        """
        values = {}
        for name, reading in list(self._readings.items()):
            try:
                values[name] = reading()
            except pynvml.NVMLError:
                del self._readings[name]
        return values


def _visible_gpus() -> list:
    """NVML's handles of the GPUs that CUDA shows to this process.

    CUDA_VISIBLE_DEVICES lists some of them by number or UUID; CUDA's numbers are those of NVML
    where all GPUs are of one kind.
    """
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            count = pynvml.nvmlDeviceGetCount()
            return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdecimal()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in map(str.strip, visible.split(","))
        ]
    except pynvml.NVMLError:  # no driver, one that does not suit its library, or no such GPU
        return []
