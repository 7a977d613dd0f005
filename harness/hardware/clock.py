"""Measure wall time and GPU energy, waiting for queued GPU work."""

import time
from collections.abc import Callable
from functools import cache

import torch


class Clock:
    """Stopwatch that accumulates wall seconds and, where the GPU reports them, joules.

    `start`, `stop` and `elapsed` wait until the device has finished its queued work.

    Args:
        device: The device to wait for, and whose energy is read.
        seconds: Seconds that an earlier clock has counted.
        joules: Joules that an earlier clock has counted; None if its energy was not measured.

    Attributes:
        seconds: Seconds counted up to the last `stop`.
        joules: Joules counted up to the last `stop`; None where energy is not measured.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, joules: float | None = None) -> None:
        self.device, self.seconds = device, seconds
        self._read_energy = energy_counter(device)
        self.joules = joules if self._read_energy is None else joules or 0.0
        self._start_time, self._start_joules = 0.0, 0.0

    def start(self) -> None:
        """Start counting."""
        synchronize(self.device)
        if self._read_energy is not None:
            self._start_joules = self._read_energy()
        self._start_time = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        self.seconds = self.elapsed()
        if self._read_energy is not None and self.joules is not None:
            self.joules += self._read_energy() - self._start_joules

    def add(self, other: "Clock") -> None:
        """Add the seconds and joules of another clock."""
        self.seconds += other.seconds
        if self.joules is not None:
            self.joules += other.joules or 0.0

    def elapsed(self) -> float:
        """Return the seconds counted so far, while the clock runs."""
        synchronize(self.device)
        return self.seconds + time.perf_counter() - self._start_time


@cache
def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """Return a function that reads the joules a GPU has used since its driver was loaded (NVML).

    Needs the package nvidia-ml-py and a GPU of the Volta generation or later. Returns None where energy is not
    available.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # package missing, old GPU, or a container without NVML: energy is not available
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000.0  # millijoules


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
