"""A worker's conversation with its trainer: started when it is needed, given one order after another, answered."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError
from harness.orchestration.display import ProgressDisplay
from harness.orchestration.gpu_assignment import GPUAssignment, log_of
from harness.orchestration.shared_trainer import LaneClient, SharedTrainer
from harness.orchestration.stop_signals import STOPPED, StopSignals
from harness.orchestration.time_accounting import TimeAccount
from harness.orchestration.trainer_launch import Trainer, TrainerDiedError
from harness.plan import Plan
from harness.records.files import write_json
from harness.records.study_folder import read_errors, write_errors, write_transcripts
from harness.search.study import Retry
from harness.spec import packing
from harness.spec.messages import Decide, Failed, Finished, Partial, Ready, Report, Train
from harness.spec.result import OUT_OF_MEMORY, Rung, TrialResult


class TrainerFailedError(Exception):
    """A run could not be carried out; with a `retry` it did not fail by itself."""

    def __init__(self, reason: str, retry: Retry | None) -> None:
        super().__init__(reason)
        self.retry = retry


class TrainerClient:
    """One trainer at work, and the next one when it has died."""

    def __init__(
        self,
        plan: Plan,
        display: ProgressDisplay,
        stop: StopSignals,
        time_account: TimeAccount,
        assignment: GPUAssignment | None = None,
        shared: SharedTrainer | None = None,
        coming: Trainer | None = None,
    ) -> None:
        """The trainer sees the GPU of the `post` and computes with its threads; its time goes to the `ledger`.

        A `shared` trainer is that of other workers too. One that is `coming` up already will be the first.
        """
        self.plan, self.display, self.stop, self.time_account = plan, display, stop, time_account
        self._log = log_of(plan, assignment.number if assignment else 0)
        self._gpu, self._threads = (assignment.gpu, assignment.threads) if assignment else (None, None)
        self._shared, self._coming = shared, coming
        self._trainer: Trainer | LaneClient | None = None
        self.heard: Ready | None = None  # what the last trainer that came up said; it may have died since

    @property
    def ready(self) -> Ready:
        """What the trainer says of its device and its data; it is started where none is up."""
        return self._ensure_trainer().ready

    def close(self) -> None:
        """Let the trainer go."""
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None
            self.time_account.write()

    def kill(self) -> None:
        """End the trainer at once; whoever waits for its answer learns that it died."""
        if self._trainer is not None:
            self._trainer.kill()

    def execute(
        self,
        order: Train,
        go_on: Callable[[Rung, bool], bool],
        may_win: Callable[[Partial], bool],
        alone: bool = False,
    ) -> Finished:
        """Hand over an order; where memory ran out so that the process is lost, halve the micro-batch here.

        `go_on` is told each rung, and whether it is the last; `may_win` a part of an evaluation. The answer to
        either is the trainer's to know. `alone` keeps a shared trainer from training others in the same pass.

        Raises:
            TrainerFailedError: if nothing came of it.
        """
        with self._turn(order, alone) as packed:
            order = order.model_copy(update={"packed": packed})
            while True:
                finished = self._converse(order, go_on, may_win)
                can_halve = finished.poisoned and order.config.auto_micro_batch
                smaller = order.config.with_half_batch() if can_halve else None
                if finished.result.reason != OUT_OF_MEMORY or smaller is None:
                    return finished
                order = order.model_copy(update={"config": smaller})

    def _start(self) -> Trainer:
        """A new trainer that has come up."""
        plan = self.plan
        self.display.preparing()
        coming, self._coming = self._coming, None
        trainer = coming or Trainer(plan.opening(), self._log, self._threads, self._gpu, plan.processes)
        try:
            trainer.come_up(self.display.say)
        except TrainerDiedError as error:
            raise UserError(str(error)) from None
        self.time_account.started(time.monotonic() - trainer.began, trainer.ready.prepare_seconds)
        write_json(plan.folder.path / "data_report.json", trainer.ready.data)
        self.display.ready(trainer.ready)
        return trainer

    def _ensure_trainer(self) -> Trainer | LaneClient:
        """The trainer that is up, or a new one."""
        if self._trainer is None:
            self._trainer = self._shared.open(self._start) if self._shared else self._start()
            self.heard = self._trainer.ready
        return self._trainer

    @contextmanager
    def _turn(self, order: Train, alone: bool) -> Iterator[bool]:
        """Wait until a shared trainer is free for an order; whether it then trains together with others."""
        if self._shared is None:
            yield False
            return
        kind = None if alone else packing.pack_key(order.config, order.budget)
        with self._shared.gate.through(kind, self.stop.asked.is_set) as entered:
            if not entered:
                raise TrainerFailedError(STOPPED, "interrupted")
            yield kind is not None

    def _converse(
        self, order: Train, go_on: Callable[[Rung, bool], bool], may_win: Callable[[Partial], bool]
    ) -> Finished:
        """Send one order and answer the trainer's reports until it is done."""
        trainer = self._ensure_trainer()
        errors = read_errors(Path(order.resume).parent) if order.resume else {}
        trainer.send(order)
        while True:
            try:
                with self.time_account.at_work():
                    answer = trainer.receive()
            except TrainerDiedError as error:
                self.close()
                if self.stop.now.is_set():
                    return _failed(order, STOPPED, "interrupted")
                return _failed(order, str(error), "died")
            if isinstance(answer, Partial):
                trainer.send(Decide(go_on=may_win(answer)))
            elif isinstance(answer, Report):
                errors[answer.rung.index] = answer.errors
                write_errors(Path(order.attempt), errors)
                decision = go_on(answer.rung, answer.last)
                if not answer.last:
                    self._leave_if_asked(decision)
                    trainer.send(Decide(go_on=decision))
            elif isinstance(answer, Finished | Failed):
                if answer.poisoned:
                    self.close()
                if isinstance(answer, Finished):
                    return answer
                return _failed(order, answer.reason, None)
            else:
                raise AssertionError(f"no answer to a train order: {answer!r}")

    def _leave_if_asked(self, decision: bool) -> None:
        """A stop was asked for: what would go on goes on from this rung another time."""
        if decision and self.stop.asked.is_set():
            self.close()
            raise TrainerFailedError(STOPPED, "interrupted")


def _failed(order: Train, reason: str, retry: Retry | None) -> Finished:
    """Memory that ran out in one of several processes is an outcome; any other failure is raised."""
    if _ran_out(order):
        return Finished(result=TrialResult.out_of_memory(), poisoned=True)
    raise TrainerFailedError(reason, retry) from None


def _ran_out(order: Train) -> bool:
    """Whether one of several processes left word that its memory ran out, which ended them all."""
    word = Path(order.attempt) / OUT_OF_MEMORY
    if not word.is_file():
        return False
    word.unlink()
    write_transcripts(Path(order.attempt) / "transcripts.jsonl", [])
    return True
