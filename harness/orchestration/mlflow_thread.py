"""MLflow written by one thread of one process, so that training never waits for it."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Self

from harness.records.mlflow_database import open_database
from harness.records.mlflow_mirror import MLflowMirror
from harness.records.study_folder import Run, StudyFolder
from harness.spec.result import Record, Rung

AGAIN_SECONDS = 30.0  # a server that is down is tried again after this time, not at every call
DRAIN_SECONDS = 120.0  # how long the end of a sweep waits for the mirror


class MLflowThread:
    """A watcher that hands on what it is told; what MLflow could not take it catches up on from the records.

    Its database is opened at once, which takes seconds; it is written to when the sweep is sure to begin.
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
            self._say("MLflow is slow and behind; the records are safe, and the next call catches up")

    def follow(self) -> None:
        """The sweep begins: what MLflow has is brought in line with the records, then with what is told."""
        self._calls.put(lambda mirror: mirror.catch_up(self._folder.records(mirror.ended)))

    def begin(self, run: Run, started: str) -> None:
        """A run begins."""
        self._calls.put(lambda mirror: mirror.begin(run, started))

    def rung(self, run: Run, rung: Rung) -> None:
        """A run was evaluated. Where calls are waiting this one is left out: the run's end brings what is missing."""
        if self._calls.empty():
            self._calls.put(lambda mirror: mirror.rung(run, rung))

    def end(self, run: Run, record: Record) -> None:
        """A run ended, and its record is stored."""
        self._calls.put(lambda mirror: mirror.end(run, record))

    def finish(self, best: Record | None) -> None:
        """The sweep ends: bring everything in line with the records, and end the study's run."""
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
        again = time.monotonic() + AGAIN_SECONDS
        while (call := self._calls.get()) is not None:
            if mirror.behind and time.monotonic() > again:
                mirror.catch_up(self._folder.records(mirror.ended))
                again = time.monotonic() + AGAIN_SECONDS
            if not mirror.behind:
                again = time.monotonic() + AGAIN_SECONDS
            call(mirror)  # while it is behind, the mirror only notes which runs are under way
