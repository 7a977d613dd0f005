"""Measure peak memory by phase, and recognize out-of-memory and CUDA errors."""

import resource
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

MemoryKind = Literal["cuda_reserved", "process_rss"]


class PeakMemory:
    """Peak memory of each phase of a trial, in bytes.

    On a GPU: what torch reserved and allocated in this process, without other processes and without the CUDA context.
    On a CPU: the resident memory of the whole process takes the place of reserved memory.

    Attributes:
        kind: What `reserved` holds.
        reserved: Peak reserved bytes by phase ("train", "evaluation").
        allocated: Peak allocated bytes by phase; empty on a CPU.
        host: Peak resident memory of the process over all phases.
        excluded: GPU bytes that serve all trials. They are subtracted from the peaks and recorded separately.
        before: Bytes in use when measuring began (see `memory_in_use`).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind: MemoryKind = "cuda_reserved" if device.type == "cuda" else "process_rss"
        self.reserved: dict[str, int] = {}
        self.allocated: dict[str, int] = {}
        self.host = 0
        self.excluded = 0
        self._phase: str | None = None
        reset_peak_memory(device)
        self.before = memory_in_use(device)

    def enter(self, phase: str | None) -> None:
        """End the current phase, if any, and start another; None starts none."""
        if self._phase is not None:
            self.host = max(self.host, host_peak_memory())
            if self.device.type == "cuda":
                _update(self.reserved, {self._phase: torch.cuda.max_memory_reserved(self.device) - self.excluded})
                _update(self.allocated, {self._phase: torch.cuda.max_memory_allocated(self.device) - self.excluded})
            else:
                _update(self.reserved, {self._phase: host_peak_memory()})
        self._phase = phase
        reset_peak_memory(self.device)

    def merge(self, peaks: dict[str, dict[str, int]]) -> None:
        """Include the peaks ("reserved" and "allocated") of an earlier part of the same trial."""
        _update(self.reserved, peaks["reserved"])
        _update(self.allocated, peaks["allocated"])


class SharedPeakMemory(PeakMemory):
    """Peak memory of a packed trial: `add_share` attributes a share of each common training pass to it."""

    def enter(self, phase: str | None) -> None:
        """End the current phase and start another; training is measured by `add_share` instead."""
        super().enter(None if phase == "train" else phase)

    def add_share(self, memory_before: int, trials: int) -> None:
        """Count this trial's share of a training pass.

        The share is the memory that the process held before any of the trials, plus an equal part of the rest. The
        former (mostly the base model) counts in full, so that the figure approximates what the trial needs alone.

        Args:
            memory_before: Bytes that the process held before any of the trials.
            trials: How many trials the pass trained.
        """

        def share(peak: int) -> int:
            return min(peak, memory_before + max(0, peak - memory_before) // trials) - self.excluded

        self.host = max(self.host, host_peak_memory())
        if self.device.type == "cuda":
            _update(self.reserved, {"train": share(torch.cuda.max_memory_reserved(self.device))})
            _update(self.allocated, {"train": share(torch.cuda.max_memory_allocated(self.device))})
        else:
            _update(self.reserved, {"train": share(host_peak_memory())})


def _update(peaks: dict[str, int], measured: dict[str, int]) -> None:
    for phase, value in measured.items():
        peaks[phase] = max(value, peaks.get(phase, 0))


def memory_in_use(device: torch.device) -> int:
    """Return the bytes in use: on a GPU by other processes and CUDA contexts, on a CPU by this process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free - torch.cuda.memory_reserved(device)
    return _resident("VmRSS")


def process_memory(device: torch.device) -> int:
    """Return the bytes that this process holds: on a GPU what torch reserved there, on a CPU its resident memory."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _resident("VmRSS")


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring a new peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # without it the peak is that of the whole process: an upper bound
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM; Linux 4.0 and later


def host_peak_memory() -> int:
    """Return the peak resident memory of the process since the last reset, in bytes."""
    return _resident("VmHWM")


def _resident(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, or one that was being handled when it was raised, means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    if any(words in message for words in ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def is_cuda_error(error: BaseException) -> bool:
    """Return whether an exception, or one that was being handled when it was raised, is a CUDA error.

    After a CUDA error the process is no longer reliable and must be replaced. torch's own out-of-memory error is not
    a CUDA error.
    """
    cuda = not isinstance(error, torch.OutOfMemoryError) and any(
        words in str(error) for words in ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")
    )
    return cuda or (error.__context__ is not None and is_cuda_error(error.__context__))
