"""Tie child processes to their parent, redirect output, and read the ranks of a multi-process trial."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def die_with_parent() -> None:
    """On Linux, have the kernel kill this process when its parent dies, even in the middle of a training step."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """Within the context, append what Python and C libraries print to the file `path` (a trial's log)."""
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
    """Return the rank of this process in its trial; only rank 0 communicates with the supervisor."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes train one trial together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
