"""Run a worker's orders on a trainer process, which is started when it is needed and again when it died."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError
from harness.orchestration.already_done import refuse_other_data
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
    """A run failed.

    Attributes:
        retry: Kind of retry; None if the run itself is the cause, so that it would fail again.
    """

    def __init__(self, reason: str, retry: Retry | None) -> None:
        super().__init__(reason)
        self.retry = retry


class TrainerClient:
    """The trainer of one worker."""

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
        """Initialize the client; no process is started yet.

        Args:
            plan: The plan of the sweep.
            display: Shows the progress.
            stop: Requests to stop.
            time_account: Account that the trainer's time is added to.
            assignment: GPU and threads of the trainer.
            shared: Trainer that several workers share.
            coming: Trainer that is starting already, used first.
        """
        self.plan, self.display, self.stop, self.time_account = plan, display, stop, time_account
        self._log = log_of(plan, assignment.number if assignment else 0)
        self._gpu, self._threads = (assignment.gpu, assignment.threads) if assignment else (None, None)
        self._shared, self._coming = shared, coming
        self._trainer: Trainer | LaneClient | None = None
        self.last_ready: Ready | None = None  # first message of the last trainer; it may have died since

    @property
    def ready(self) -> Ready:
        """The trainer's first message, about its device and its data; starts a trainer if none is running."""
        return self._ensure_trainer().ready

    def close(self) -> None:
        """End the trainer."""
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None
            self.time_account.write()

    def kill(self) -> None:
        """Kill the trainer; a pending `execute` then finds that it died."""
        if self._trainer is not None:
            self._trainer.kill()

    def execute(
        self,
        order: Train,
        may_continue: Callable[[Rung, bool], bool],
        may_beat_best: Callable[[Partial], bool],
        alone: bool = False,
    ) -> Finished:
        """Run one order. If its process ran out of memory and is lost, halve the micro-batch and start again.

        Args:
            order: The order.
            may_continue: Called with each rung, and whether it is the last; False prunes the trial.
            may_beat_best: Called with parts of an evaluation; False prunes the trial.
            alone: Whether to train without other trials in the same pass of a shared trainer.

        Raises:
            TrainerFailedError: The run failed.
        """
        with self._turn(order, alone) as packed:
            order = order.model_copy(update={"packed": packed})
            while True:
                finished = self._run_order(order, may_continue, may_beat_best)
                can_halve = finished.poisoned and order.config.auto_micro_batch
                smaller = order.config.with_half_batch() if can_halve else None
                if finished.result.reason != OUT_OF_MEMORY or smaller is None:
                    return finished
                order = order.model_copy(update={"config": smaller})

    def _start(self) -> Trainer:
        """Start a trainer and wait until it is ready."""
        plan = self.plan
        self.display.preparing()
        coming, self._coming = self._coming, None
        trainer = coming or Trainer(plan.open_message(), self._log, self._threads, self._gpu, plan.processes)
        try:
            trainer.come_up(self.display.say)
        except TrainerDiedError as error:
            raise UserError(str(error)) from None
        self.time_account.started(time.monotonic() - trainer.began, trainer.ready.prepare_seconds)
        refuse_other_data(plan, trainer.ready.data)
        write_json(plan.folder.path / "data_report.json", trainer.ready.data)
        self.display.ready(trainer.ready)
        return trainer

    def _ensure_trainer(self) -> Trainer | LaneClient:
        """Return the running trainer, or a new one."""
        if self._trainer is None:
            self._trainer = self._shared.open(self._start) if self._shared else self._start()
            self.last_ready = self._trainer.ready
        return self._trainer

    @contextmanager
    def _turn(self, order: Train, alone: bool) -> Iterator[bool]:
        """Wait until a shared trainer is free for an order. Yields whether it trains together with others."""
        if self._shared is None:
            yield False
            return
        kind = None if alone else packing.pack_key(order.config, order.budget)
        with self._shared.gate.through(kind, self.stop.asked.is_set) as entered:
            if not entered:
                raise TrainerFailedError(STOPPED, "interrupted")
            yield kind is not None

    def _run_order(
        self, order: Train, may_continue: Callable[[Rung, bool], bool], may_beat_best: Callable[[Partial], bool]
    ) -> Finished:
        """Send an order, and answer the trainer's reports until it is finished."""
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
                trainer.send(Decide(go_on=may_beat_best(answer)))
            elif isinstance(answer, Report):
                errors[answer.rung.index] = answer.errors
                write_errors(Path(order.attempt), errors)
                decision = may_continue(answer.rung, answer.last)
                if not answer.last:
                    self._stop_if_asked(decision)
                    trainer.send(Decide(go_on=decision))
            elif isinstance(answer, Finished | Failed):
                if answer.poisoned:
                    self.close()
                if isinstance(answer, Finished):
                    return answer
                return _failed(order, answer.reason, None)
            else:
                raise AssertionError(f"no answer to a train order: {answer!r}")

    def _stop_if_asked(self, decision: bool) -> None:
        """If a stop is requested, interrupt the trial: it resumes from this rung in the next sweep."""
        if decision and self.stop.asked.is_set():
            self.close()
            raise TrainerFailedError(STOPPED, "interrupted")


def _failed(order: Train, reason: str, retry: Retry | None) -> Finished:
    """Return a result if one of several processes ran out of memory, and raise any other failure."""
    if _ran_out(order):
        return Finished(result=TrialResult.out_of_memory(), poisoned=True)
    raise TrainerFailedError(reason, retry) from None


def _ran_out(order: Train) -> bool:
    """Whether one of several processes wrote the file that says that it ran out of memory."""
    marker = Path(order.attempt) / OUT_OF_MEMORY
    if not marker.is_file():
        return False
    marker.unlink()
    write_transcripts(Path(order.attempt) / "transcripts.jsonl", [])
    return True
