"""Write heartbeats of running trials to the storage, and find the trials whose heartbeats have stopped."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.errors import UserError
from harness.search.storage import Database

HEARTBEAT_SECONDS = 10.0  # between two heartbeats of a trial
GRACE_SECONDS = 60.0  # without a heartbeat, after which a trial counts as lost


class Heartbeat:
    """A thread that writes heartbeats for the trials that this process runs."""

    def __init__(self, database: Database) -> None:
        self._storage = database.storage
        self._trials: set[int] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="heartbeat").start()

    @contextmanager
    def sending_for(self, trial_id: int) -> Iterator[None]:
        """Write heartbeats for a trial inside the context, the first one immediately."""
        self._storage.record_heartbeat(trial_id)
        self._trials.add(trial_id)
        try:
            yield
        finally:
            self._trials.discard(trial_id)

    def stop(self) -> None:
        """Write no more heartbeats."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            for trial_id in list(self._trials):
                with suppress(UserError):  # the worker meets the same database error and reports it
                    self._storage.record_heartbeat(trial_id)


class HeartbeatMonitor:
    """Find trials that have sent no heartbeat for `GRACE_SECONDS`.

    Each heartbeat is compared with the one seen before, and its age is measured on this machine's monotonic clock.
    So a clock that is set, or that differs between machines, ends no trial. Time in which the database could not be
    read does not count.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[int, tuple[str | None, float]] = {}  # trial: (last heartbeat, when it was first seen)
        self._last_check = time.monotonic()

    def stale_trials(self, running: list[int]) -> list[int]:
        """Return the ids of the running trials that are lost. Call it every few seconds.

        Args:
            running: The storage's ids of the running trials.
        """
        heartbeats, now = self._database.heartbeats(), time.monotonic()
        interrupted = now - self._last_check > 3 * HEARTBEAT_SECONDS
        self._last_check = now
        previous = {} if interrupted else self._seen
        self._seen = {}
        for trial in running:
            heartbeat, since = previous.get(trial, (None, now))
            unchanged = trial in previous and heartbeat == heartbeats.get(trial)
            self._seen[trial] = (heartbeats.get(trial), since if unchanged else now)
        return [trial for trial, (_, since) in self._seen.items() if now - since > GRACE_SECONDS]
