"""Write to MLflow in a thread, so that training never waits for it."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Self

from harness.records.mlflow_database import open_database
from harness.records.mlflow_mirror import MLflowMirror
from harness.records.study_folder import Run, StudyFolder
from harness.spec.result import Record, Rung

RETRY_SECONDS = 30.0  # between two tries to reach a server that is down
DRAIN_SECONDS = 120.0  # that the end of a sweep waits for MLflow


class MLflowThread:
    """A watcher that passes runs to the MLflow mirror; what MLflow missed is added later from the records.

    The thread opens the database at once, which takes seconds, and writes to it after `follow`.
    """

    def __init__(self, folder: StudyFolder, study: str, say: Callable[[str], None], uri: str | None = None) -> None:
        self._folder, self._study, self._say, self._uri = folder, study, say, uri
        self._calls: queue.SimpleQueue[Callable[[MLflowMirror], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)
        self._thread.join(DRAIN_SECONDS)
        if self._thread.is_alive():
            self._say(
                "MLflow is slow and still incomplete; the records are complete, and the next sweep updates MLflow"
            )

    def follow(self) -> None:
        """Begin writing: bring MLflow in line with the records, then pass on each event."""
        self._calls.put(lambda mirror: mirror.catch_up(self._folder.records(mirror.ended)))

    def begin(self, run: Run, started: str) -> None:
        """Log that a run begins."""
        self._calls.put(lambda mirror: mirror.begin(run, started))

    def rung(self, run: Run, rung: Rung) -> None:
        """Log a rung, unless other calls are waiting: the end of the run adds what is missing."""
        if self._calls.empty():
            self._calls.put(lambda mirror: mirror.rung(run, rung))

    def end(self, run: Run, record: Record) -> None:
        """Log the stored record of a run that ended."""
        self._calls.put(lambda mirror: mirror.end(run, record))

    def finish(self, best: Record | None) -> None:
        """End the sweep: bring MLflow in line with the records, and end the study's run."""
        self._calls.put(lambda mirror: mirror.catch_up(self._folder.records(mirror.ended), over=True))
        self._calls.put(lambda mirror: mirror.close(best))

    def _run(self) -> None:
        if self._uri is None:
            open_database(self._folder)
        follow = self._calls.get()
        if follow is None:
            return
        mirror = MLflowMirror(self._folder, self._study, self._uri)
        follow(mirror)
        next_try = time.monotonic() + RETRY_SECONDS
        while (call := self._calls.get()) is not None:
            if mirror.behind and time.monotonic() > next_try:
                mirror.catch_up(self._folder.records(mirror.ended))
                next_try = time.monotonic() + RETRY_SECONDS
            if not mirror.behind:
                next_try = time.monotonic() + RETRY_SECONDS
            call(mirror)  # while it is behind, the mirror only notes which runs are running
