"""run_sweep.py with a fake trainer, stopped at a named point: python paused.py POINT FILE -- arguments of run_sweep.py

POINT is module:function[:after][@n], or "-". When it is reached for the n-th time, the process writes its id to FILE
and stops itself, so that a test can end it there with a real SIGKILL. A POINT in fake_trainer stops that instead.
FAULT_PATCH is JSON, {"module:NAME": value}; FAULT_FULL a POINT from which on the disk is full.
"""

import errno
import functools
import importlib
import json
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def stop_at(point: str, file: str) -> None:
    def stop() -> None:
        if not Path(file).exists():
            Path(file).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)

    instrument(point, stop, lambda calls, wanted: calls == wanted)


def full_from(point: str) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    instrument(point, full, lambda calls, wanted: calls >= wanted)


def patch() -> None:
    for place, value in json.loads(os.environ.get("FAULT_PATCH", "{}")).items():
        module, name = place.split(":")
        setattr(importlib.import_module(module), name, value)


def instrument(point: str, act, due) -> None:
    place, _, number = point.partition("@")
    module, name, *after = place.split(":")
    owner = importlib.import_module(module)
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls, wanted = getattr(owner, attribute), 0, int(number or 1)

    def reached() -> None:
        nonlocal calls
        calls += 1
        if due(calls, wanted):
            act()

    @functools.wraps(original)
    def stopping(*arguments, **named):
        if not after:
            reached()
        result = original(*arguments, **named)
        if after:
            reached()
        return result

    setattr(owner, attribute, stopping)


def main() -> None:
    point, file, _, *arguments = sys.argv[1:]
    sys.path[:0] = [str(HERE.parent.parent), str(HERE)]
    full = os.environ.get("FAULT_FULL", "-")
    if full != "-" and full.startswith("fake_trainer") == (arguments == ["trainer"]):
        full_from(full)
    if arguments == ["trainer"]:
        stop_at(point, file) if point != "-" else None
        importlib.import_module("fake_trainer").main()
        return
    import harness.orchestration.trainer_launch

    inner = point.startswith("fake_trainer")
    trainer_point = point if inner else "-"
    harness.orchestration.trainer_launch.TRAINER = (str(HERE / "paused.py"), trainer_point, file, "--", "trainer")
    if point != "-" and not inner:
        stop_at(point, file)
    patch()
    import run_sweep

    sys.exit(run_sweep.main(arguments))


if __name__ == "__main__":
    main()
