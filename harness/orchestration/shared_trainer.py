"""One trainer process for several workers: each has a lane, and believes that it has a trainer of its own."""

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

LOOK_SECONDS = 0.5
PATIENCE = 10.0  # seconds for a trainer that is let go


class PackGate:
    """Lets trials of one kind train together, and one of no kind alone. First come, first served: nobody starves."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue = deque[object]()
        self._inside = 0
        self._kind: PackKey | None = None

    @contextmanager
    def through(self, kind: PackKey | None, given_up: Callable[[], bool]) -> Iterator[bool]:
        """Wait for one's turn, and have it within; False where that was given up."""
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
                    self._changed.wait(LOOK_SECONDS)
                self._inside, self._kind = self._inside + 1, kind
                return True
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()


class TrainerLine:
    """A trainer process, and a thread that hands what it says to its lanes.

    The thread starts the process: when a thread ends, Linux ends what it started, and workers' threads end early.
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
                    if answer.lane in self.lanes:  # one that was left may still be talked to
                        self.lanes[answer.lane].put(answer)
        self.trainer.close()

    def enter(self, lane: int) -> bool:
        """Listen in another lane; False where the process has died or is let go."""
        with self._lock:
            if self.died is None:
                self.lanes[lane] = queue.Queue()
            return self.died is None

    def say(self, order: Order, lane: int) -> None:
        """Send one order."""
        with self._lock:
            if self.died is None:
                self.trainer.send(order.model_copy(update={"lane": lane}))

    def leave(self, lane: int) -> None:
        """Listen no more; with the last lane the process is let go."""
        with self._lock:
            self.lanes.pop(lane, None)
            if self.lanes:
                return
            self.died = self.died or TrainerDiedError("the trainer was let go")
            self.trainer.hang_up()
        self._thread.join(PATIENCE)
        self.trainer.kill()
        self._thread.join()


class SharedTrainer:
    """The trainer process of several workers, started when one needs it, and again when it has died."""

    def __init__(self) -> None:
        self.gate = PackGate()
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._line: TrainerLine | None = None

    def open(self, start: Callable[[], Trainer]) -> "LaneClient":
        """A lane of the process that is up, or of a new one."""
        with self._lock:
            number = next(self._numbers)
            while self._line is None or not self._line.enter(number):
                self._line = TrainerLine(start)
            return LaneClient(self._line, number)


class LaneClient:
    """What a worker has instead of a Trainer."""

    def __init__(self, line: TrainerLine, number: int) -> None:
        self._line, self._number, self._under_way = line, number, False
        self._answers = line.lanes[number]

    @property
    def ready(self) -> Ready:
        """What the trainer said of its device and its data."""
        return self._line.trainer.ready

    def send(self, order: Order) -> None:
        """Send one order; a dead trainer is noticed by `receive`."""
        self._under_way = self._under_way or isinstance(order, Train)
        self._line.say(order, self._number)

    def receive(self) -> Answer:
        """The next answer in this lane.

        Raises:
            UserError: if the trainer refuses.
            TrainerDiedError: if it is gone.
        """
        answer = self._answers.get()
        if isinstance(answer, TrainerDiedError):
            self._under_way = False
            raise TrainerDiedError(str(answer))
        if isinstance(answer, Finished | Failed | Refused):
            self._under_way = False
        if isinstance(answer, Refused):
            raise UserError(answer.message)
        return answer

    def kill(self) -> None:
        """End the process at once, and so the trials of all lanes."""
        self._line.trainer.kill()

    def close(self) -> None:
        """Leave the lane, and drop the trial that is under way in it."""
        if self._under_way:
            self.send(Leave())
        self._line.leave(self._number)
