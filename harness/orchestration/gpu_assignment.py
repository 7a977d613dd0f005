"""Who works where: a post is what one worker is told of its place."""

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
    """What one job is told: whose it is, which of the workers, its GPU, and the process it must not outlive."""

    coordinator: str
    number: int
    gpu: str | None = None
    threads: int | None = None
    parent: int | None = None

    @property
    def name(self) -> str:
        """What trials know the worker by."""
        return f"{self.coordinator}-{self.number}"


def gpu_assignments(place: ComputeOptions, processes: int = 1) -> list[GPUAssignment]:
    """Who works where: so many workers a GPU, or on a CPU with a share of its threads; or so many jobs.

    Trials of several processes take as many GPUs each.
    """
    found = _groups(gpus(), processes)
    name = f"{os.uname().nodename}-{os.getpid()}-{int(time.time())}"
    if place.launcher == "slurm":
        return [GPUAssignment(name, number) for number in range(place.workers or 1)]
    room = len(found) * place.trials_per_gpu
    number = place.workers or max(1, room)
    if found and number > room:
        each = -(-number // len(found))
        raise UserError(f"{number} workers on {len(found)} GPUs need --trials-per-gpu {each}, memory permitting")
    threads = max(1, threads_here() // number)
    apart = bool(found) and (number > 1 or place.launcher != "local")
    return [
        GPUAssignment(name, n, found[n % len(found)] if apart else None, threads, os.getpid()) for n in range(number)
    ]


def log_of(plan: Plan, number: int) -> Path:
    """Where the trainer of a worker writes its log."""
    return plan.folder.path / (f"trainer-{number}.log" if number else "trainer.log")


def _groups(found: list[str], size: int) -> list[str]:
    if found and len(found) < size:
        raise UserError(f"--processes {size} needs as many GPUs; {len(found)} is visible here")
    return [",".join(found[start : start + size]) for start in range(0, len(found) - size + 1, size)]
