"""Being asked to stop: after the rung at hand, or now."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

STOPPED = "interrupted: stopped on request"


class Killable(Protocol):
    """A worker, as a signal sees it."""

    def kill(self) -> None:
        """End at once."""


class StopSignals:
    """Shared by the workers of a process: `asked` ends each at its next rung, `now` at once."""

    def __init__(self) -> None:
        self.asked, self.now = threading.Event(), threading.Event()

    @contextmanager
    def signals(self, say: Callable[[str], None], workers: Sequence[Killable]) -> Iterator[None]:
        """SIGTERM and Ctrl-C: the first lets workers finish their rung, the second ends them, a third this process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: FrameType | None) -> None:
            if not self.asked.is_set():
                self.asked.set()
                say("stopping after the rung at hand; once more stops now")
                return
            self.now.set()
            for worker in workers:
                worker.kill()
            for known in before:
                signal.signal(known, signal.SIG_DFL)

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
