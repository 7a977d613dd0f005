"""Describe the environment of a run for its record: device, package versions, and Git commit."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.hardware.processes import world_size

PACKAGES = ("torch", "transformers", "peft", "accelerate", "optuna", "mlflow", "jiwer", "tokenizers", "numpy")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return device, threads, processes, versions and commit, as stored in records."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "python": platform.python_version(),
        "harness": __version__,
        "packages": {package: version(package) for package in PACKAGES},
        **_git_state(),
    }


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_state() -> dict[str, Any]:
    """Return the checkout's commit and whether it has uncommitted changes; None for both outside a checkout."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
