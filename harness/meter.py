"""Clocks that wait for the device, peak memory, and what machine and code a run had."""

import platform
import resource
import subprocess
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from harness import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "optuna", "mlflow", "jiwer", "tokenizers", "numpy")


class Clock:
    """Adds up wall seconds between start and stop; work queued on a GPU is waited for at both."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._began = device, 0.0, 0.0

    def start(self) -> None:
        """Begin to count."""
        synchronize(self.device)
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        synchronize(self.device)
        self.seconds += time.perf_counter() - self._began


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # the peak is then that of the process, an upper bound
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, Linux 4.0 and later


def peak_memory(device: torch.device) -> tuple[int, Literal["cuda_reserved", "process_rss"]]:
    """(bytes, kind) since the reset: memory reserved on a GPU; on a CPU the whole process stands in."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device), "cuda_reserved"
    return host_peak_memory(), "process_rss"


def host_peak_memory() -> int:
    """Bytes of resident memory at the process's peak since the reset."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says, in any of its forms, that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return any(words in said for words in ("out of memory", "cublas_status_alloc_failed", "can't allocate memory"))


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "harness": __version__,
        "packages": {package: version(package) for package in PACKAGES},
        **_commit(),
    }


def _processor() -> str:
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
