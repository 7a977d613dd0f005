"""Processes by their command line, while others come and go."""

from contextlib import suppress

import psutil


def command_line(process: psutil.Process) -> str:
    """Empty for one that has ended, reaped or not."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def living(word: str, under: int | None = None) -> list[psutil.Process]:
    """The processes that have a word in their command line: all, or those that descend from one."""
    among = psutil.process_iter() if under is None else psutil.Process(under).children(recursive=True)
    return [process for process in among if word in command_line(process)]


def end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
