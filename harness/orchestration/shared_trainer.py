"""Share one trainer process between several workers, each with a lane of its own (`--pack`)."""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import UserError
from harness.orchestration.trainer_launch import Trainer, TrainerDiedError
from harness.spec.messages import Answer, Failed, Finished, Leave, Order, Ready, Refused, Train
from harness.spec.packing import PackKey

POLL_SECONDS = 0.5
EXIT_SECONDS = 10.0  # that a trainer gets to exit before it is killed


class PackGate:
    """Let trials with equal pack keys train together, and a trial without a key alone, in the order of requests."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue = deque[object]()
        self._inside = 0
        self._kind: PackKey | None = None

    @contextmanager
    def through(self, kind: PackKey | None, given_up: Callable[[], bool]) -> Iterator[bool]:
        """Wait for the turn of a trial, and hold it inside the context. Yields False if waiting was given up.

        Args:
            kind: Pack key of the trial; None if it must train alone.
            given_up: Whether to stop waiting.
        """
        entered = self._enter(kind, given_up)
        try:
            yield entered
        finally:
            if entered:
                with self._changed:
                    self._inside -= 1
                    self._changed.notify_all()

    def _enter(self, kind: PackKey | None, given_up: Callable[[], bool]) -> bool:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while not (self._queue[0] is ticket and (not self._inside or (kind and kind == self._kind))):
                    if given_up():
                        return False
                    self._changed.wait(POLL_SECONDS)
                self._inside, self._kind = self._inside + 1, kind
                return True
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()


class TrainerLine:
    """A trainer process, and a thread that passes its answers to the lanes.

    The thread starts the process itself: Linux ends a process with the thread that started it (PR_SET_PDEATHSIG), and
    the threads of workers end earlier.
    """

    def __init__(self, start: Callable[[], Trainer]) -> None:
        self.lanes: dict[int, queue.Queue[Answer | TrainerDiedError]] = {}
        self._lock, self._up = threading.Lock(), threading.Event()
        self._error: BaseException | None = None
        self.died: TrainerDiedError | None = None
        self._thread = threading.Thread(target=self._run, args=(start,), daemon=True, name="lanes")
        self._thread.start()
        self._up.wait()
        if self._error is not None:
            raise self._error

    def _run(self, start: Callable[[], Trainer]) -> None:
        try:
            self.trainer = start()
        except BaseException as error:
            self._error = error
            return
        finally:
            self._up.set()
        while self.died is None:
            try:
                answer = self.trainer.hear()
            except TrainerDiedError as error:
                with self._lock:
                    self.died = error
                    for lane in self.lanes.values():
                        lane.put(error)
            else:
                with self._lock:
                    if answer.lane in self.lanes:  # answers to a lane that was left are dropped
                        self.lanes[answer.lane].put(answer)
        self.trainer.close()

    def enter(self, lane: int) -> bool:
        """Open a lane. Returns False if the process has died or is exiting."""
        with self._lock:
            if self.died is None:
                self.lanes[lane] = queue.Queue()
            return self.died is None

    def say(self, order: Order, lane: int) -> None:
        """Send an order in a lane."""
        with self._lock:
            if self.died is None:
                self.trainer.send(order.model_copy(update={"lane": lane}))

    def leave(self, lane: int) -> None:
        """Close a lane; with the last one the process ends."""
        with self._lock:
            self.lanes.pop(lane, None)
            if self.lanes:
                return
            self.died = self.died or TrainerDiedError("the trainer has ended")
            self.trainer.hang_up()
        self._thread.join(EXIT_SECONDS)
        self.trainer.kill()
        self._thread.join()


class SharedTrainer:
    """The trainer process of several workers, started when the first needs it, and again after it died."""

    def __init__(self) -> None:
        self.gate = PackGate()
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._line: TrainerLine | None = None

    def open(self, start: Callable[[], Trainer]) -> "LaneClient":
        """Return a new lane of the running process, or of a new one."""
        with self._lock:
            number = next(self._numbers)
            while self._line is None or not self._line.enter(number):
                self._line = TrainerLine(start)
            return LaneClient(self._line, number)


class LaneClient:
    """One lane of a shared trainer, with the interface of `Trainer`."""

    def __init__(self, line: TrainerLine, number: int) -> None:
        self._line, self._number, self._training = line, number, False
        self._answers = line.lanes[number]

    @property
    def ready(self) -> Ready:
        """The trainer's first message, about its device and its data."""
        return self._line.trainer.ready

    def send(self, order: Order) -> None:
        """Send an order. If the trainer has died, `receive` raises."""
        self._training = self._training or isinstance(order, Train)
        self._line.say(order, self._number)

    def receive(self) -> Answer:
        """Return the next answer in this lane.

        Raises:
            UserError: The trainer refused the order.
            TrainerDiedError: The trainer has died.
        """
        answer = self._answers.get()
        if isinstance(answer, TrainerDiedError):
            self._training = False
            raise TrainerDiedError(str(answer))
        if isinstance(answer, Finished | Failed | Refused):
            self._training = False
        if isinstance(answer, Refused):
            raise UserError(answer.message)
        return answer

    def kill(self) -> None:
        """Kill the process, and with it the trials of all lanes."""
        self._line.trainer.kill()

    def close(self) -> None:
        """Leave the lane, and drop its running trial."""
        if self._training:
            self.send(Leave())
        self._line.leave(self._number)
