"""Signs of life: trials at work beat in the storage, and a watch notices those that no longer do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.errors import UserError
from harness.search.storage import Database

BEAT_SECONDS = 10.0
GRACE_SECONDS = 60.0


class Heartbeat:
    """Beats for the trials that this process has at work."""

    def __init__(self, database: Database) -> None:
        self._storage = database.storage
        self._trials: set[int] = set()
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="heartbeat").start()

    @contextmanager
    def beating(self, trial_id: int) -> Iterator[None]:
        """Beat for a trial, the first time at once."""
        self._storage.record_heartbeat(trial_id)
        self._trials.add(trial_id)
        try:
            yield
        finally:
            self._trials.discard(trial_id)

    def stop(self) -> None:
        """Beat no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            for trial_id in list(self._trials):
                with suppress(UserError):  # the worker meets the same trouble, and says so
                    self._storage.record_heartbeat(trial_id)


class HeartbeatMonitor:
    """Tells which trials have not beaten for the grace time.

    Beats are compared with the one seen before and timed on this machine's monotonic clock: a clock that is set, or
    differs between machines, kills nobody. Time in which the database could not be read does not count.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[int, tuple[str | None, float]] = {}
        self._looked = time.monotonic()

    def silent(self, running: list[int]) -> list[int]:
        """Of the running trials those that have been silent for too long; to be called every few seconds."""
        beats, now = self._database.heartbeats(), time.monotonic()
        away = now - self._looked > 3 * BEAT_SECONDS
        self._looked = now
        last = {} if away else self._seen
        self._seen = {}
        for trial in running:
            beat, since = last.get(trial, (None, now))
            self._seen[trial] = (beats.get(trial), since if beat == beats.get(trial) and trial in last else now)
        return [trial for trial, (_, since) in self._seen.items() if now - since > GRACE_SECONDS]
