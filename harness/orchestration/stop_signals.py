"""Stop the workers on SIGINT or SIGTERM: after the current rung, or at once."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

STOPPED = "interrupted: stopped on request"


class Killable(Protocol):
    """A worker that can be stopped at once."""

    def kill(self) -> None:
        """Stop at once."""


class StopSignals:
    """Requests to stop, shared by the workers of a process.

    Attributes:
        asked: Set by the first signal: stop after the current rung.
        now: Set by the second signal: stop at once.
    """

    def __init__(self) -> None:
        self.asked, self.now = threading.Event(), threading.Event()

    @contextmanager
    def signals(self, say: Callable[[str], None], workers: Sequence[Killable]) -> Iterator[None]:
        """Handle SIGINT and SIGTERM: stop after the rung; the second time, stop workers; the third, this process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if not self.asked.is_set():
                self.asked.set()
                say("stopping after the current rung; press Ctrl-C again to stop now")
                return
            self.now.set()
            for worker in workers:
                worker.kill()
            for known in before:
                signal.signal(known, signal.SIG_DFL)

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
