"""Processes that belong together: none outlives the one that started it. No tensors here."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def die_with_parent() -> None:
    """On Linux, be killed when the process that started this one dies, even in the middle of a step."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send what is printed meanwhile, by Python or by C libraries, to a file: the trial's own log."""
    saved = os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _print_to(file)
    try:
        yield
    finally:
        _print_to(saved)
        os.close(file)
        os.close(saved)


def _print_to(descriptor: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def rank() -> int:
    """Which of the processes of a trial this is; the first talks to the supervisor."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train one trial together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
