"""A worker: carries out one run after another on a trainer process of its own, and stores what came of each."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from harness.errors import UserError
from harness.launch import Trainer, TrainerDiedError
from harness.record import (
    Run,
    has_rungs,
    is_stored,
    read_errors,
    read_record,
    read_rungs,
    store,
    write_errors,
    write_json,
    write_transcripts,
)
from harness.spec import packing
from harness.spec.budget import Budget
from harness.spec.judging import Judging
from harness.spec.messages import Decide, Failed, Finished, Partial, Ready, Report, Train
from harness.spec.result import OUT_OF_MEMORY, Record, Rung, TrialResult
from harness.supervisor.display import Terminal
from harness.supervisor.lanes import Lane, Shared
from harness.supervisor.ledger import Ledger
from harness.supervisor.plan import Plan
from harness.supervisor.posts import log_of
from harness.supervisor.stopping import STOPPED, Stop
from harness.supervisor.study import RETRIES, Retry


class Watcher(Protocol):
    """Who is told how runs go: the terminal, and MLflow."""

    def begin(self, run: Run) -> None:
        """A run begins."""

    def rung(self, run: Run, rung: Rung) -> None:
        """A run was evaluated."""

    def end(self, run: Run, record: Record) -> None:
        """A run ended, and its record is stored."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the attempt folder, its record, and whether, and why, it is to be tried again."""

    attempt: Path
    record: Record
    retry: Retry | None = None


class TrainerFailedError(Exception):
    """A run could not be carried out; with a `retry` it did not fail by itself."""

    def __init__(self, reason: str, retry: Retry | None) -> None:
        super().__init__(reason)
        self.retry = retry


class Worker:
    """One trainer at work; it is started when it is needed, and again when it has died."""

    def __init__(
        self,
        plan: Plan,
        display: Terminal,
        watchers: Sequence[Watcher],
        stop: Stop,
        number: int = 0,
        gpu: str | None = None,
        threads: int | None = None,
        shared: Shared | None = None,
        coming: Trainer | None = None,
    ) -> None:
        """Number `number` of its kind; its trainer sees the GPU named and computes with so many threads.

        A `shared` trainer is that of other workers too. One that is `coming` up already will be its first.
        """
        self.plan, self.display, self.folder = plan, display, plan.folder
        self._log, self._gpu, self._threads = log_of(plan, number), gpu, threads
        account = plan.folder.path / "time" / f"{uuid.uuid4().hex[:12]}.json"
        self.ledger = Ledger(account, coming.began if coming else None)
        self.watchers, self.stop = list(watchers), stop
        self._shared = shared
        self._coming = coming
        self._trainer: Trainer | Lane | None = None
        self._environment: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self._utterances = 0  # of train, once they are known

    @property
    def ready(self) -> Ready:
        """What the trainer said of its device and its data."""
        return self._ensure_trainer().ready

    def resolved(self, budget: Budget) -> Budget:
        """A budget with epochs counted in the examples that there are."""
        if budget.epochs is None:
            return budget
        if not self._utterances:
            self._utterances = self.ready.data["splits"]["train"]["utterances"]
        return budget.resolved(self._utterances)

    def close(self) -> None:
        """Let the trainer go."""
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None
            self.ledger.write()

    def kill(self) -> None:
        """End the trainer at once; whoever waits for its answer learns that it died."""
        if self._trainer is not None:
            self._trainer.kill()

    def carry_out(self, run: Run) -> Record:
        """A run that no study asks for, a baseline or a replicate, recorded unless it was already.

        It goes on from the last rung of an attempt that was interrupted; a trainer's death is tried again once.
        """
        if is_stored(run.folder) and (known := read_record(run.folder)).state == "complete":
            self.display.known(known)
            return known
        for tried in range(1 + RETRIES["died"]):
            resume = run.folder / "checkpoint"
            attempt = self.folder.attempt()
            write_json(attempt / "run.json", {"record": self.folder.key(run.folder), "config": run.config.settings()})
            if has_rungs(resume) and is_stored(run.folder) and read_record(run.folder).config == run.config:
                shutil.copytree(resume, attempt / "checkpoint")  # the record's folder is about to be replaced
            outcome = self.attempt(run, attempt, lambda rung: True, attempt / "checkpoint", alone=tried > 0)
            store(attempt, run.folder, outcome.record)
            self.ended(run, outcome.record)
            if outcome.retry != "died":
                break
        return outcome.record

    def refuse(self, run: Run, attempt: Path, reason: str) -> Outcome:
        """A run that need not be trained to be known as infeasible."""
        self._ensure_trainer()
        for watcher in self.watchers:
            watcher.begin(run)
        return Outcome(attempt, self.record(run, now(), (), None, reason).model_copy(update={"state": "pruned"}))

    def attempt(
        self,
        run: Run,
        attempt: Path,
        judge: Callable[[Rung], bool],
        resume: Path | None = None,
        may_win: Callable[[Partial], bool] = lambda part: True,
        alone: bool = False,
    ) -> Outcome:
        """Train and judge each rung, and where the space says so parts of it; nothing is stored yet.

        `resume` is the checkpoint of an attempt before. What a trainer died with is tried again `alone`, so that it
        is known whose fault it was.
        """
        began, rungs = now(), dict[int, Rung]()
        resume = resume if resume and has_rungs(resume) else None
        for watcher in self.watchers:
            watcher.begin(run)

        def at_rung(rung: Rung) -> None:
            new = rung.index not in rungs
            rungs[rung.index] = rung
            for watcher in self.watchers if new else ():
                watcher.rung(run, rung)

        before = read_rungs(resume) if resume else []
        for rung in before[:-1]:  # the last one is reported again by the trainer
            at_rung(rung)
        finished, reason, retry = None, None, None
        try:
            finished = self._converse(run, attempt, judge, at_rung, resume, may_win, alone)
        except TrainerFailedError as failure:
            reason, retry = str(failure), failure.retry
        if retry is None:
            shutil.rmtree(attempt / "checkpoint", ignore_errors=True)
        record = self.record(run, began, list(rungs.values()), finished, reason)
        self.ledger.ended(record.cost, record.rungs, before)
        return Outcome(attempt, record, retry)

    def ended(self, run: Run, record: Record) -> None:
        """Tell the watchers that a record is stored."""
        self.ledger.write()
        for watcher in self.watchers:
            watcher.end(run, record)

    def record(
        self, run: Run, began: str, rungs: Sequence[Rung], finished: Finished | None = None, reason: str | None = None
    ) -> Record:
        """What is written about a run; without a result of the trainer it failed, for the reason given."""
        result = finished.result if finished else None
        return failure(self.plan, run, reason or "", began, rungs).model_copy(
            update={
                "state": result.state if result else "fail",
                "reason": result.reason if result else reason,
                "rungs": result.rungs if result else tuple(rungs),
                "cost": result.cost if result else None,
                "environment": self._environment,
                "data": self._data,
                "budget": self.resolved(run.budget or self.plan.space.budget),
            }
        )

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
        self.ledger.started(time.monotonic() - trainer.began, trainer.ready.prepare_seconds)
        write_json(self.folder.path / "data_report.json", trainer.ready.data)
        self.display.ready(trainer.ready)
        return trainer

    def _ensure_trainer(self) -> Trainer | Lane:
        """The trainer that is up, or a new one."""
        if self._trainer is None:
            plan = self.plan
            self._trainer = self._shared.open(self._start) if self._shared else self._start()
            ready = self._trainer.ready
            self._environment = ready.environment
            self._data = {
                "task": plan.task.name,
                "model": plan.model,
                "languages": ready.data["languages"],
                **{name: split["hash"] for name, split in ready.data["splits"].items()},
            }
        return self._trainer

    def _converse(
        self,
        run: Run,
        attempt: Path,
        judge: Callable[[Rung], bool],
        at_rung: Callable[[Rung], None],
        resume: Path | None,
        may_win: Callable[[Partial], bool],
        alone: bool,
    ) -> Finished:
        """Hand the run to the trainer; where memory ran out so that the process is lost, halve the micro-batch here."""
        order = Train(
            config=run.config,
            budget=self.resolved(run.budget or self.plan.space.budget),
            seed=run.seed,
            attempt=str(attempt.resolve()),
            resume=str(resume.resolve()) if resume else None,
            judging=self._judging(run),
            portion=run.portion,
        )
        with self._turn(order, alone) as packed:
            order = order.model_copy(update={"packed": packed})
            while True:
                finished = self._answer(order, judge, at_rung, may_win)
                smaller = order.config.halved() if finished.poisoned and order.config.auto_micro_batch else None
                if finished.result.reason != OUT_OF_MEMORY or smaller is None:
                    return finished
                order = order.model_copy(update={"config": smaller})

    @contextmanager
    def _turn(self, order: Train, alone: bool) -> Iterator[bool]:
        """Wait until a shared trainer is free for an order; whether it then trains together with others."""
        if self._shared is None:
            yield False
            return
        kind = None if alone else packing.kind(order.config, order.budget)
        with self._shared.gate.through(kind, self.stop.asked.is_set) as entered:
            if not entered:
                raise TrainerFailedError(STOPPED, "interrupted")
            yield kind is not None

    def _answer(
        self,
        order: Train,
        judge: Callable[[Rung], bool],
        at_rung: Callable[[Rung], None],
        may_win: Callable[[Partial], bool],
    ) -> Finished:
        """Send one order and answer the trainer's reports until it is done."""
        trainer = self._ensure_trainer()
        errors = read_errors(Path(order.resume).parent) if order.resume else {}
        trainer.send(order)
        while True:
            try:
                with self.ledger.at_work():
                    answer = trainer.receive()
            except TrainerDiedError as error:
                self.close()
                if _ran_out(order):
                    return Finished(result=TrialResult.out_of_memory(), poisoned=True)
                if self.stop.now.is_set():
                    raise TrainerFailedError(STOPPED, "interrupted") from None
                raise TrainerFailedError(str(error), "died") from None
            if isinstance(answer, Partial):
                trainer.send(Decide(go_on=may_win(answer)))
            elif isinstance(answer, Report):
                errors[answer.rung.index] = answer.errors
                write_errors(Path(order.attempt), errors)
                at_rung(answer.rung)
                if not answer.last:
                    go_on = judge(answer.rung)
                    if go_on and self.stop.asked.is_set():
                        self.close()
                        raise TrainerFailedError(STOPPED, "interrupted")
                    trainer.send(Decide(go_on=go_on))
            elif isinstance(answer, Finished):
                if answer.poisoned:
                    self.close()
                return answer
            elif isinstance(answer, Failed):
                if answer.poisoned:
                    self.close()
                if _ran_out(order):
                    return Finished(result=TrialResult.out_of_memory(), poisoned=True)
                raise TrainerFailedError(answer.reason, None)
            else:
                raise AssertionError(f"no answer to a train order: {answer!r}")

    def _judging(self, run: Run) -> Judging:
        """A trial as the space says; every other run is decoded in full at each rung."""
        space, seed = self.plan.space, self.plan.seed
        if run.kind != "trial":
            return Judging(seed=seed)
        chunk = space.pruner.chunk if space.pruner.name == "wilcoxon" else None
        return Judging(judge=space.judge, rung_utterances=space.rung_utterances, chunk=chunk, seed=seed)


def failure(plan: Plan, run: Run, reason: str, began: str | None = None, rungs: Sequence[Rung] = ()) -> Record:
    """The record of a run that failed, as far as it is known without its trainer."""
    return Record(
        kind=run.kind,
        name=run.name,
        number=run.number,
        seed=run.seed,
        state="fail",
        reason=reason,
        config=run.config,
        budget=run.budget or plan.space.budget,
        portion=run.portion,
        notes=run.notes,
        rungs=tuple(rungs),
        started=began or now(),
        ended=now(),
        environment={},
        data={"task": plan.task.name, "model": plan.model},
    )


def _ran_out(order: Train) -> bool:
    """Whether one of several processes left word that its memory ran out, which ended them all."""
    word = Path(order.attempt) / OUT_OF_MEMORY
    if not word.is_file():
        return False
    word.unlink()
    write_transcripts(Path(order.attempt) / "transcripts.jsonl", [])
    return True


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
