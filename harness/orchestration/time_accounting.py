"""Where a sweep's time went: each worker keeps an account of its own in the study's folder."""

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
    "prepare": "data, and what frozen layers make of it",
    "start": "trainers: process, imports, model",
    "wait": "trainers idle: ask, tell, records",
    "other": "adapters, checkpoints, files; work that was lost",
}


class TimeAccount:
    """The account of one trainer's wall time since it was started, or its worker began; workers may share one.

    Training, evaluation and preparation are what the trainer measured, starting what the worker did. Of the rest,
    what passed while an order was under way is `other`, and what passed between orders is `wait`.
    """

    def __init__(self, path: Path, began: float | None = None) -> None:
        """The account is written to `path`, whole each time, so that of a worker that is killed the last one stays.

        It counts from `began`, a time of the monotonic clock; by default from now.
        """
        self._path, self._began = path, time.monotonic() if began is None else began
        self._spent, self._cached = Counter[str](), 0.0
        self._orders, self._since, self._busy = 0, 0.0, 0.0
        self._lock = threading.RLock()

    def started(self, seconds: float, preparing: float) -> None:
        """A trainer came up; of the seconds that took, so many went into preparing data."""
        with self._lock:
            self._spent.update({"start": seconds - preparing, "prepare": preparing})

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the trainer works on an order; what overlaps counts once."""
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
        """A run ended; what the rungs `before` took was spent by an earlier attempt."""
        trained = cost.train_seconds if cost else rungs[-1].train_seconds if rungs else 0.0
        known = before[-1].train_seconds if before else 0.0
        evaluated = sum(rung.evaluation_seconds for rung in rungs[len(before) :])
        with self._lock:
            self._spent.update({"train": max(0.0, trained - known), "evaluate": evaluated})
            self._cached += cost.prefix_seconds if cost else 0.0

    def account(self) -> dict[str, float]:
        """Seconds by phase; they add up to `wall`."""
        with self._lock:
            spent, now = dict.fromkeys(PHASES, 0.0) | self._spent, time.monotonic()
            busy = self._busy + (now - self._since if self._orders else 0.0)
            wall = now - self._began
            spent["wait"] = wall - busy - spent["start"] - spent["prepare"]
            spent["prepare"] += self._cached
            spent["other"] = busy - spent["train"] - spent["evaluate"] - self._cached
        return {**spent, "wall": wall}

    def write(self) -> None:
        """Store the account; that it cannot be stored costs nothing else."""
        with suppress(OSError):
            write_json(self._path, {name: round(seconds, 3) for name, seconds in self.account().items()})


def new_time_account(folder: StudyFolder, began: float | None = None) -> TimeAccount:
    """A new account in a study's folder."""
    return TimeAccount(folder.path / "time" / f"{uuid.uuid4().hex[:12]}.json", began)


def time_spent(folder: StudyFolder) -> dict[str, float]:
    """Seconds by phase, of all workers that were ever at work on a study; empty where none was."""
    total = Counter[str]()
    for path in folder.path.glob("time/*.json"):
        total.update(json.loads(path.read_text(encoding="utf-8")))
    return dict(total)


def time_table(spent: dict[str, float]) -> list[tuple[str, str, str]]:
    """(phase, share, what it is) for people, and the share outside training and evaluation; none where nothing is."""
    wall = spent.get("wall", 0.0)
    if wall <= 0:
        return []
    rows = [(name, f"{spent[name] / wall:.1%}", means) for name, means in PHASES.items()]
    outside = wall - spent["train"] - spent["evaluate"]
    return [*rows, ("outside", f"{outside / wall:.1%}", "all but training and evaluation")]
