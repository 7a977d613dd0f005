"""Assign GPUs and CPU threads to the workers of a sweep."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.hardware.gpus import gpus
from harness.orchestration.trainer_launch import threads_here
from harness.plan import ComputeOptions, Plan


@dataclass(frozen=True)
class GPUAssignment:
    """GPU assignment of one worker.

    Attributes:
        coordinator: Name of the process that started the workers.
        number: Number of the worker, from 0.
        gpu: Its GPUs, as in CUDA_VISIBLE_DEVICES; None: those that are visible anyway.
        threads: CPU threads of its trainer.
        parent: Process with which the worker must end; None for a job on another machine.
    """

    coordinator: str
    number: int
    gpu: str | None = None
    threads: int | None = None
    parent: int | None = None

    @property
    def name(self) -> str:
        """Name of the worker in the study's database."""
        return f"{self.coordinator}-{self.number}"


def gpu_assignments(compute: ComputeOptions, processes: int = 1) -> list[GPUAssignment]:
    """Return the assignment of each worker: one or several on a GPU, or a share of the CPU threads.

    Args:
        compute: Options on GPUs, workers and cluster.
        processes: Processes of one trial, each with a GPU of its own.

    Raises:
        UserError: There are fewer GPUs than needed.
    """
    found = _groups(gpus(), processes)
    name = f"{os.uname().nodename}-{os.getpid()}-{int(time.time())}"
    if compute.launcher == "slurm":
        return [GPUAssignment(name, number) for number in range(compute.workers or 1)]
    room = len(found) * compute.trials_per_gpu
    number = compute.workers or max(1, room)
    if found and number > room:
        each = -(-number // len(found))
        raise UserError(f"{number} workers on {len(found)} GPUs need --trials-per-gpu {each}, memory permitting")
    threads = max(1, threads_here() // number)
    apart = bool(found) and (number > 1 or compute.launcher != "local")
    return [
        GPUAssignment(name, n, found[n % len(found)] if apart else None, threads, os.getpid()) for n in range(number)
    ]


def log_of(plan: Plan, number: int) -> Path:
    """Return the log file of a worker's trainer."""
    return plan.folder.path / (f"trainer-{number}.log" if number else "trainer.log")


def _groups(found: list[str], size: int) -> list[str]:
    if found and len(found) < size:
        raise UserError(f"--processes {size} needs as many GPUs; {len(found)} is visible here")
    return [",".join(found[start : start + size]) for start in range(0, len(found) - size + 1, size)]
