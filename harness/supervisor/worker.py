"""A worker: carries out one run after another on a trainer process of its own, and stores what came of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from harness.errors import UserError
from harness.launch import Trainer, TrainerDiedError
from harness.record import Run, store, write_json
from harness.spec.messages import Decide, Failed, Finished, Open, Ready, Report, Train
from harness.spec.result import Record, Rung
from harness.supervisor.display import Terminal
from harness.supervisor.plan import Plan


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
    """A stored record, and whether the process was lost rather than the run failed by itself."""

    record: Record
    died: bool = False


class TrainerFailedError(Exception):
    """A run could not be carried out; `died` tells whether the process was lost, or the run failed by itself."""

    def __init__(self, reason: str, died: bool) -> None:
        super().__init__(reason)
        self.died = died


class Worker:
    """One trainer at work; it is started when it is needed, and again when it has died."""

    def __init__(self, plan: Plan, display: Terminal) -> None:
        self.plan, self.display, self.folder = plan, display, plan.folder
        self._trainer: Trainer | None = None

    @property
    def ready(self) -> Ready:
        """What the trainer said of its device and its data."""
        return self._ensure_trainer().ready

    def close(self) -> None:
        """Let the trainer go."""
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None

    def carry_out(self, run: Run, judge: Callable[[Rung], bool], watchers: Sequence[Watcher] = ()) -> Outcome:
        """Train, judge each rung, store the record. A failure is recorded as what it is."""
        attempt, began, rungs = self.folder.attempt(), now(), list[Rung]()
        for watcher in watchers:
            watcher.begin(run)

        def at_rung(rung: Rung) -> None:
            rungs.append(rung)
            for watcher in watchers:
                watcher.rung(run, rung)

        died = False
        try:
            finished = self._converse(run, attempt, judge, at_rung)
            record = self.record(run, began, rungs, finished)
        except TrainerFailedError as failure:
            died = failure.died
            record = self.record(run, began, rungs, reason=str(failure))
        store(attempt, run.folder, record)
        for watcher in watchers:
            watcher.end(run, record)
        return Outcome(record, died)

    def record(
        self, run: Run, began: str, rungs: Sequence[Rung], finished: Finished | None = None, reason: str | None = None
    ) -> Record:
        """What is written about a run; without a result of the trainer it failed, for the reason given."""
        ready, result = self.ready, finished.result if finished else None
        return Record(
            kind=run.kind,
            name=run.name,
            number=run.number,
            seed=run.seed,
            state=result.state if result else "fail",
            reason=result.reason if result else reason,
            config=run.config,
            budget=run.budget or self.plan.space.budget,
            notes=run.notes,
            rungs=result.rungs if result else tuple(rungs),
            cost=result.cost if result else None,
            started=began,
            ended=now(),
            environment=ready.environment,
            data={
                "task": self.plan.task.name,
                "model": self.plan.model,
                "languages": ready.data["languages"],
                **{name: split["hash"] for name, split in ready.data["splits"].items()},
            },
        )

    def _ensure_trainer(self) -> Trainer:
        """The trainer that is up, or a new one."""
        if self._trainer is None:
            plan = self.plan
            order = Open(model=plan.model, task=plan.task, cache_dir=str(plan.cache_dir), seed=plan.seed)
            self.display.preparing()
            try:
                self._trainer = Trainer(order, self.folder.path / "trainer.log", say=self.display.say)
            except TrainerDiedError as error:
                raise UserError(str(error)) from None
            write_json(self.folder.path / "data_report.json", self._trainer.ready.data)
            self.display.ready(self._trainer.ready)
        return self._trainer

    def _converse(
        self, run: Run, attempt: Path, judge: Callable[[Rung], bool], at_rung: Callable[[Rung], None]
    ) -> Finished:
        """Hand the run to the trainer and answer its reports."""
        trainer = self._ensure_trainer()
        budget = run.budget or self.plan.space.budget
        order = Train(config=run.config, budget=budget, seed=run.seed, attempt=str(attempt.resolve()))
        trainer.send(order)
        while True:
            try:
                answer = trainer.receive()
            except TrainerDiedError as error:
                self.close()
                raise TrainerFailedError(str(error), died=True) from None
            if isinstance(answer, Report):
                at_rung(answer.rung)
                if not answer.last:
                    trainer.send(Decide(go_on=judge(answer.rung)))
            elif isinstance(answer, Finished):
                return answer
            elif isinstance(answer, Failed):
                if answer.poisoned:
                    self.close()
                raise TrainerFailedError(answer.reason, died=False)
            else:
                raise AssertionError(f"no answer to a train order: {answer!r}")


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
