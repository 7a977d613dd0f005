"""Account for the wall time of a sweep by phase. Each trainer has one file in the study's folder."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.records.files import write_json
from harness.records.study_folder import StudyFolder
from harness.spec.result import Cost, Rung

PHASES = {
    "train": "training",
    "evaluate": "evaluation at rungs",
    "prepare": "data preparation, encoder-state cache",
    "start": "start of trainers: process, imports, model",
    "wait": "idle trainers: sampling, records",
    "other": "adapters, checkpoints, files; lost work",
}


class TimeAccount:
    """Wall time of one trainer by phase; workers of a shared trainer share one account.

    The trainer measures training, evaluation and preparation, the worker measures starting. Of the rest, time during an
    order is `other`, and time between orders is `wait`.
    """

    def __init__(self, path: Path, began: float | None = None) -> None:
        """Begin an account.

        Args:
            path: File of the account. It is rewritten as a whole, so that a killed worker leaves the last one.
            began: Begin, on the monotonic clock; None: now.
        """
        self._path, self._began = path, time.monotonic() if began is None else began
        self._spent, self._cached = Counter[str](), 0.0
        self._orders, self._since, self._busy = 0, 0.0, 0.0
        self._lock = threading.RLock()

    def started(self, seconds: float, preparing: float) -> None:
        """Add the start of a trainer, in seconds, of which `preparing` were spent on preparing data."""
        with self._lock:
            self._spent.update({"start": seconds - preparing, "prepare": preparing})

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the time in the context as an order's; overlapping orders count once."""
        with self._lock:
            self._since = self._since if self._orders else time.monotonic()
            self._orders += 1
        try:
            yield
        finally:
            with self._lock:
                self._orders -= 1
                self._busy += 0.0 if self._orders else time.monotonic() - self._since

    def ended(self, cost: Cost | None, rungs: Sequence[Rung], before: Sequence[Rung]) -> None:
        """Add a run that ended, without the rungs `before`, which an earlier attempt trained."""
        trained = cost.train_seconds if cost else rungs[-1].train_seconds if rungs else 0.0
        known = before[-1].train_seconds if before else 0.0
        evaluated = sum(rung.evaluation_seconds for rung in rungs[len(before) :])
        with self._lock:
            self._spent.update({"train": max(0.0, trained - known), "evaluate": evaluated})
            self._cached += cost.prefix_seconds if cost else 0.0

    def account(self) -> dict[str, float]:
        """Return the seconds by phase, which add up to `wall`."""
        with self._lock:
            spent, now = dict.fromkeys(PHASES, 0.0) | self._spent, time.monotonic()
            busy = self._busy + (now - self._since if self._orders else 0.0)
            wall = now - self._began
            spent["wait"] = wall - busy - spent["start"] - spent["prepare"]
            spent["prepare"] += self._cached
            spent["other"] = busy - spent["train"] - spent["evaluate"] - self._cached
        return {**spent, "wall": wall}

    def write(self) -> None:
        """Write the account; an error is ignored."""
        with suppress(OSError):
            write_json(self._path, {name: round(seconds, 3) for name, seconds in self.account().items()})


def new_time_account(folder: StudyFolder, began: float | None = None) -> TimeAccount:
    """Return a new account in a study's folder."""
    return TimeAccount(folder.path / "time" / f"{uuid.uuid4().hex[:12]}.json", began)


def time_spent(folder: StudyFolder) -> dict[str, float]:
    """Return the seconds by phase of all workers of a study, in all its sweeps; empty without any."""
    total = Counter[str]()
    for path in folder.path.glob("time/*.json"):
        total.update(json.loads(path.read_text(encoding="utf-8")))
    return dict(total)


def time_table(spent: dict[str, float]) -> list[tuple[str, str, str]]:
    """Return rows of phase, share and meaning, the last for all but training and evaluation; empty without time."""
    wall = spent.get("wall", 0.0)
    if wall <= 0:
        return []
    rows = [(name, f"{spent[name] / wall:.1%}", means) for name, means in PHASES.items()]
    outside = wall - spent["train"] - spent["evaluate"]
    return [*rows, ("outside", f"{outside / wall:.1%}", "all but training and evaluation")]
