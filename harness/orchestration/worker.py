"""Run baselines, trials and replicates one after another on a trainer, and store their records."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from harness.orchestration.already_done import augmentation_hash, changes, identity, stored_result
from harness.orchestration.display import ProgressDisplay
from harness.orchestration.gpu_assignment import GPUAssignment
from harness.orchestration.shared_trainer import SharedTrainer
from harness.orchestration.stop_signals import StopSignals
from harness.orchestration.time_accounting import TimeAccount, new_time_account
from harness.orchestration.trainer_client import TrainerClient, TrainerFailedError
from harness.orchestration.trainer_launch import Trainer
from harness.plan import Plan
from harness.records.answers import data_hashes
from harness.records.files import write_json
from harness.records.study_folder import Run, has_rungs, is_stored, read_record, read_rungs, store
from harness.search.study import RETRIES, Retry
from harness.spec.budget import Budget, epoch_examples
from harness.spec.messages import Finished, Partial, Train
from harness.spec.result import Record, Rung
from harness.spec.rung_evaluation import RungEvaluation


class Watcher(Protocol):
    """Receiver of the events of runs: the progress display, the MLflow thread."""

    def begin(self, run: Run, started: str) -> None:
        """A run begins; `started` is the time in its record."""

    def rung(self, run: Run, rung: Rung) -> None:
        """A run was evaluated."""

    def end(self, run: Run, record: Record) -> None:
        """A run ended, and its record is stored."""


@dataclass(frozen=True)
class Outcome:
    """Result of an attempt at a run.

    Attributes:
        attempt: Folder of the attempt.
        record: Record of the run.
        retry: Why to retry the run; None: it is final.
    """

    attempt: Path
    record: Record
    retry: Retry | None = None


class Worker:
    """Run runs on one trainer."""

    def __init__(
        self,
        plan: Plan,
        display: ProgressDisplay,
        watchers: Sequence[Watcher],
        stop: StopSignals,
        assignment: GPUAssignment | None = None,
        time_account: TimeAccount | None = None,
        shared: SharedTrainer | None = None,
        coming: Trainer | None = None,
    ) -> None:
        """Initialize; workers of one trainer share a `time_account`. For the other arguments see TrainerClient."""
        self.plan, self.display, self.folder, self.stop = plan, display, plan.folder, stop
        self.watchers, self.name = list(watchers), assignment.name if assignment else None
        self.time_account = time_account or new_time_account(plan.folder, coming.began if coming else None)
        self.trainer = TrainerClient(plan, display, stop, self.time_account, assignment, shared, coming)

    def resolved(self, budget: Budget) -> Budget:
        """Return a budget with epochs converted to examples."""
        if budget.epochs is None:
            return budget
        ready = self.trainer.last_ready or self.trainer.ready
        return budget.resolved(epoch_examples(ready.data))

    def close(self) -> None:
        """End the trainer."""
        self.trainer.close()

    def kill(self) -> None:
        """Kill the trainer."""
        self.trainer.kill()

    def execute(self, run: Run) -> Record:
        """Run a baseline or follow-up run and store its record, unless it has one already.

        An interrupted attempt is resumed from its last rung. If the trainer dies, the run is retried once.
        """
        if known := stored_result(self.plan, run):
            self.display.known(known)
            return known
        for tried in range(1 + RETRIES["died"]):
            resume = run.folder / "checkpoint"
            attempt = self.folder.attempt()
            _ = self.trainer.ready  # writes the data report, which is part of the identity
            about = {"record": self.folder.key(run.folder), "worker": self.name}
            write_json(attempt / "run.json", {**about, **identity(self.plan, run)})
            if has_rungs(resume) and is_stored(run.folder) and not changes(self.plan, run, read_record(run.folder)):
                shutil.copytree(resume, attempt / "checkpoint")  # the record's folder is about to be replaced
            outcome = self.attempt(run, attempt, lambda rung: True, attempt / "checkpoint", alone=tried > 0)
            store(attempt, run.folder, outcome.record)
            self.ended(run, outcome.record)
            if outcome.retry != "died":
                break
        return outcome.record

    def refuse(self, run: Run, attempt: Path, reason: str) -> Outcome:
        """Return the outcome of a trial that is known to be infeasible without training."""
        _ = self.trainer.ready  # its device and its data belong to the record
        began = now()
        for watcher in self.watchers:
            watcher.begin(run, began)
        return Outcome(attempt, self.record(run, began, (), None, reason).model_copy(update={"state": "pruned"}))

    def attempt(
        self,
        run: Run,
        attempt: Path,
        may_continue: Callable[[Rung], bool],
        resume: Path | None = None,
        may_beat_best: Callable[[Partial], bool] = lambda partial: True,
        alone: bool = False,
    ) -> Outcome:
        """Train a run, and return its outcome without storing it.

        Args:
            run: The run.
            attempt: Folder of this attempt.
            may_continue: Called with each rung but the last; False prunes the run.
            resume: Checkpoint of an earlier attempt.
            may_beat_best: Called with parts of an evaluation; False prunes the run.
            alone: Whether to train without other trials in the same pass: a retry after the trainer died, to know
                which trial is the cause.
        """
        began, rungs = now(), dict[int, Rung]()
        resume = resume if resume and has_rungs(resume) else None
        for watcher in self.watchers:
            watcher.begin(run, began)

        def at_rung(rung: Rung) -> None:
            new = rung.index not in rungs
            rungs[rung.index] = rung
            for watcher in self.watchers if new else ():
                watcher.rung(run, rung)

        def continues(rung: Rung, last: bool) -> bool:
            at_rung(rung)
            return not last and may_continue(rung)

        before = read_rungs(resume) if resume else []
        for rung in before[:-1]:  # the last one is reported again by the trainer
            at_rung(rung)
        finished, reason, retry = None, None, None
        try:
            finished = self.trainer.execute(self._order(run, attempt, resume), continues, may_beat_best, alone)
        except TrainerFailedError as error:
            reason, retry = str(error), error.retry
        if retry is None:
            shutil.rmtree(attempt / "checkpoint", ignore_errors=True)
        record = self.record(run, began, list(rungs.values()), finished, reason)
        self.time_account.ended(record.cost, record.rungs, before)
        return Outcome(attempt, record, retry)

    def ended(self, run: Run, record: Record) -> None:
        """Pass a stored record to the watchers."""
        self.time_account.write()
        for watcher in self.watchers:
            watcher.end(run, record)

    def record(
        self, run: Run, began: str, rungs: Sequence[Rung], finished: Finished | None = None, reason: str | None = None
    ) -> Record:
        """Return the record of a run; without a result of the trainer it failed, for the reason given."""
        known: dict[str, Any] = {"budget": self.resolved(run.budget or self.plan.space.budget)}
        failed = failure(self.plan, run, reason or "", began, rungs)
        if ready := self.trainer.last_ready:
            hashes = data_hashes(ready.data) | augmentation_hash(run.config)
            known["data"] = {**failed.data, "languages": ready.data["languages"], **hashes}
            known["environment"] = ready.environment
        if finished:
            result = finished.result
            known |= {name: getattr(result, name) for name in ("state", "reason", "rungs", "cost")}
        return failed.model_copy(update=known)

    def _order(self, run: Run, attempt: Path, resume: Path | None) -> Train:
        return Train(
            config=run.config,
            budget=self.resolved(run.budget or self.plan.space.budget),
            seed=run.seed,
            attempt=str(attempt.resolve()),
            resume=str(resume.resolve()) if resume else None,
            judging=self._judging(run),
            portion=run.portion,
        )

    def _judging(self, run: Run) -> RungEvaluation:
        """Return how rungs are evaluated: of a trial as the space says, of other runs by decoding all of validation."""
        space, seed = self.plan.space, self.plan.seed
        if run.kind != "trial":
            return RungEvaluation(seed=seed)
        chunk = space.pruner.chunk if space.pruner.name == "wilcoxon" else None
        return RungEvaluation(judge=space.judge, rung_utterances=space.rung_utterances, chunk=chunk, seed=seed)


def failure(plan: Plan, run: Run, reason: str, began: str | None = None, rungs: Sequence[Rung] = ()) -> Record:
    """Return the record of a failed run, without what only its trainer knows."""
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


def now() -> str:
    """Return the current time in the format of records."""
    return datetime.now(UTC).isoformat(timespec="seconds")
