"""The sweep: baselines, then trials until N slots are used, each recorded before anyone is told."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.record import Run, read_record
from harness.spec.result import Kind, Record
from harness.supervisor.display import Terminal
from harness.supervisor.heartbeat import Heart
from harness.supervisor.mirroring import Mirroring
from harness.supervisor.plan import Plan, claim
from harness.supervisor.reaper import INTERRUPTED, reap, settle_attempts
from harness.supervisor.storage import Database
from harness.supervisor.study import Study
from harness.supervisor.trials import carry_out_trials
from harness.supervisor.worker import Stop, Worker

SUPERVISOR = "supervisor"  # the worker that Optuna's trials name where no other machine is at work


class Sweep:
    """One supervisor at work on one study."""

    def __init__(self, plan: Plan, display: Terminal) -> None:
        self.plan, self.display, self.folder = plan, display, plan.folder
        self._began = time.monotonic()
        self.stop, self.workers = Stop(), list[Worker]()

    def run(self) -> Record | None:
        """Carry out the plan; returns the best trial's record.

        Raises:
            KeyboardInterrupt: after a signal asked to stop, when all is stored.
        """
        claim(self.plan)
        try:
            with FileLock(self.folder.path / "supervisor.lock", timeout=0):
                return self._run()
        except Timeout:
            raise UserError(f"study {self.plan.study!r} is already being worked on by another process") from None

    def _run(self) -> Record | None:
        database = Database(self.folder.path)
        self.study = Study(self.folder, self.plan.study, self.plan.space, self.plan.seed, database)
        self._reap()
        self.workers = [Worker(self.plan, self.display, [self.display], self.stop)]
        self.heart = Heart(database)
        try:
            self._refuse_what_cannot_run(self.workers[0].ready.device)
            settle_attempts(self.folder, self.plan, self._baselines())
            with Mirroring(self.folder, self.plan.study, self.display.say) as self.mirror, self._signals():
                for worker in self.workers:
                    worker.watchers.append(self.mirror)
                self._work()
                self._reap()
                best = self._best()
                self.mirror.finish(best)
        finally:
            self.heart.stop()
            for worker in self.workers:
                worker.close()
        if self.stop.asked.is_set():
            raise KeyboardInterrupt
        return best

    def _best(self) -> Record | None:
        number = self.study.best()
        return read_record(self.folder.trial(number)) if number is not None else None

    def _reap(self) -> None:
        """Nobody else is at work, the lock says so: whatever still runs in the storage is a ghost."""
        reap(self.study, self.plan, lambda trial: True, INTERRUPTED, "interrupted")

    def _refuse_what_cannot_run(self, device: str) -> None:
        """Say what the device at hand cannot do before anything is trained."""
        refusals = {"the space": self.plan.space.refused_on(device)}
        for name, recipe in self.plan.recipes.items():
            refusals[f"baseline {name}"] = recipe.under(self.plan.space.budget, device)[0].refused_on(device)
        for what, refusal in refusals.items():
            if refusal:
                raise UserError(f"{what} cannot run here: {refusal}")

    def _baselines(self) -> list[Run]:
        device, budget, runs = self.workers[0].ready.device, self.plan.space.budget, []
        for name, recipe in self.plan.recipes.items():
            config, notes = recipe.under(budget, device, self.plan.model)
            kind: Kind = "zero_shot" if config.method == "none" else "recipe"
            folder = self.folder.baseline(name, self.plan.seed)
            run = Run(kind, name, config, self.plan.seed, folder, notes=tuple(notes), budget=recipe.judged(budget))
            runs.append(run)
        return runs

    def _work(self) -> None:
        """All workers at once: first the baselines, then trials until the study has its number."""
        for _, record in self.folder.records():
            if record.kind == "trial":
                self.display.known(record)
        baselines = deque(self._baselines())

        def work(worker: Worker) -> None:
            while baselines and not self.stop.asked.is_set():
                worker.carry_out(baselines.popleft())
            carry_out_trials(self.study, worker, self.heart, self.plan.trials, SUPERVISOR, self._may_begin)

        self._in_threads(work)

    def _may_begin(self) -> bool:
        """Whether another trial may be begun."""
        timeout = self.plan.timeout
        if timeout is not None and time.monotonic() - self._began > timeout:
            self.display.say(f"the time-out of {timeout:g} s is reached: no new trial is begun")
            return False
        return not self.stop.asked.is_set()

    def _in_threads(self, work: Callable[[Worker], None]) -> None:
        """Let each worker work in a thread of its own, so that this one can hear signals; the first error is raised."""
        errors = list[BaseException]()

        def guarded(worker: Worker) -> None:
            try:
                work(worker)
            except BaseException as error:
                errors.append(error)
                self.stop.asked.set()
            finally:
                worker.close()  # here: when a thread ends, Linux ends the trainers that it started

        threads = [threading.Thread(target=guarded, args=(worker,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(timeout=0.2)
        if errors:
            raise errors[0]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C: the first lets each worker finish its rung, the second ends them now, a third this."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: FrameType | None) -> None:
            if not self.stop.asked.is_set():
                self.stop.asked.set()
                self.display.say("stopping after the rung at hand; once more stops now")
                return
            self.stop.now.set()
            for worker in self.workers:
                worker.kill()
            for known in before:
                signal.signal(known, signal.SIG_DFL)

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
