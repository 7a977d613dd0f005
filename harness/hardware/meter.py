"""Clocks that wait for the device, peak memory, and what machine and code a run had."""

import platform
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from harness import __version__
from harness.hardware.processes import world_size

PACKAGES = ("torch", "transformers", "peft", "accelerate", "optuna", "mlflow", "jiwer", "tokenizers", "numpy")


class Clock:
    """Adds up wall seconds, and joules where the GPU counts them, between start and stop.

    Work queued on a GPU is waited for at both.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, joules: float | None = None) -> None:
        """Begin at `seconds` and `joules`, which an earlier clock has counted."""
        self.device, self.seconds = device, seconds
        self._energy = energy_counter(device)
        self.joules = joules if self._energy is None else joules or 0.0
        self._began, self._joules_began = 0.0, 0.0

    def start(self) -> None:
        """Begin to count."""
        synchronize(self.device)
        if self._energy is not None:
            self._joules_began = self._energy()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        self.seconds = self.elapsed()
        if self._energy is not None and self.joules is not None:
            self.joules += self._energy() - self._joules_began

    def add(self, other: "Clock") -> None:
        """Count what another clock has counted."""
        self.seconds += other.seconds
        if self.joules is not None:
            self.joules += other.joules or 0.0

    def elapsed(self) -> float:
        """Seconds counted so far, while it runs."""
        synchronize(self.device)
        return self.seconds + time.perf_counter() - self._began


@cache
def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """Joules that a GPU has used since its driver was loaded, by NVML; None where it does not count them.

    Needs the package nvidia-ml-py, and a GPU of Volta or later.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, an old GPU, a container without NVML: energy is then not known
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000.0  # millijoules


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


MemoryKind = Literal["cuda_reserved", "process_rss"]


class PeakMemory:
    """Peak memory of the phases of a trial, in bytes.

    On a GPU what torch reserved and allocated in this process: neither other processes nor the CUDA context are in
    it. On a CPU the resident memory of the whole process stands in for what is reserved.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind: MemoryKind = "cuda_reserved" if device.type == "cuda" else "process_rss"
        self.reserved: dict[str, int] = {}
        self.allocated: dict[str, int] = {}
        self.host = 0  # resident memory of the process, the highest of all phases
        self.apart = 0  # of a GPU's memory, bytes that serve all trials and are counted by themselves
        self._phase: str | None = None
        reset_peak_memory(device)
        self.before = memory_in_use(device)

    def enter(self, phase: str | None) -> None:
        """End the phase that runs, if any, and begin another."""
        if self._phase is not None:
            self.host = max(self.host, host_peak_memory())
            if self.device.type == "cuda":
                _raise(self.reserved, {self._phase: torch.cuda.max_memory_reserved(self.device) - self.apart})
                _raise(self.allocated, {self._phase: torch.cuda.max_memory_allocated(self.device) - self.apart})
            else:
                _raise(self.reserved, {self._phase: host_peak_memory()})
        self._phase = phase
        reset_peak_memory(self.device)

    def recall(self, peaks: dict[str, dict[str, int]]) -> None:
        """Count in the peaks of an earlier part of the same trial."""
        _raise(self.reserved, peaks["reserved"])
        _raise(self.allocated, peaks["allocated"])


class SharedPeakMemory(PeakMemory):
    """Peaks of a trial that trains together with others: of what training takes it is told its share."""

    def enter(self, phase: str | None) -> None:
        """End the phase that runs, and begin another; training is not watched from here."""
        super().enter(None if phase == "train" else phase)

    def share(self, held: int, trials: int) -> None:
        """Count one of several trials: what the process held before any of them, and an equal part of the rest.

        What it held, the base above all, counts whole, so that the figure is about what the trial takes alone.
        """

        def part(peak: int) -> int:
            return min(peak, held + max(0, peak - held) // trials) - self.apart

        self.host = max(self.host, host_peak_memory())
        if self.device.type == "cuda":
            _raise(self.reserved, {"train": part(torch.cuda.max_memory_reserved(self.device))})
            _raise(self.allocated, {"train": part(torch.cuda.max_memory_allocated(self.device))})
        else:
            _raise(self.reserved, {"train": part(host_peak_memory())})


def _raise(peaks: dict[str, int], seen: dict[str, int]) -> None:
    for phase, value in seen.items():
        peaks[phase] = max(value, peaks.get(phase, 0))


def memory_in_use(device: torch.device) -> int:
    """Bytes in use now: on a GPU by other processes and CUDA contexts, on a CPU by this process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free - torch.cuda.memory_reserved(device)
    return _resident("VmRSS")


def memory_held(device: torch.device) -> int:
    """Bytes that this process holds now: on a GPU what torch reserved there, on a CPU all of it."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _resident("VmRSS")


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # the peak is then that of the process, an upper bound
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, Linux 4.0 and later


def host_peak_memory() -> int:
    """Bytes of resident memory at the process's peak since the reset."""
    return _resident("VmHWM")


def _resident(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one in whose handling it was raised, says in any form that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    if any(words in said for words in ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def is_poisoned(error: BaseException) -> bool:
    """Whether a CUDA error was met, after which a process cannot be trusted; torch's own limit is none."""
    cuda = not isinstance(error, torch.OutOfMemoryError) and any(
        words in str(error) for words in ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")
    )
    return cuda or (error.__context__ is not None and is_poisoned(error.__context__))


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "python": platform.python_version(),
        "harness": __version__,
        "packages": {package: version(package) for package in PACKAGES},
        **_commit(),
    }


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _commit() -> dict[str, Any]:
    """The checkout's commit and whether it has changes; nulls outside a checkout."""

    def git(*arguments: str) -> str:
        where = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
