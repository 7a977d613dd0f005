"""Processes that belong together: none outlives the one that started it. No tensors here."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def die_with_parent() -> None:
    """On Linux, be killed when the process that started this one dies, even in the middle of a step."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def rank() -> int:
    """Which of the processes of a trial this is; the first talks to the supervisor."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train one trial together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
