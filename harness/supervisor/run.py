"""The sweep: baselines, then trials until N slots are used, each recorded before anyone is told."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import optuna
from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.launch import Trainer, TrainerDiedError
from harness.record import is_stored, read_record, store, write_json
from harness.spec.messages import Decide, Failed, Finished, Open, Report, Train
from harness.spec.result import Kind, Record, Rung
from harness.spec.trial import TrialConfig
from harness.supervisor.display import Terminal
from harness.supervisor.plan import Plan, claim
from harness.supervisor.study import Study
from harness.tracking import Mirror


@dataclass(frozen=True)
class Run:
    """One thing to train: a trial or a baseline, and the folder that its record will have."""

    kind: Kind
    name: str
    config: TrialConfig
    seed: int
    folder: Path
    number: int | None = None
    notes: tuple[str, ...] = ()


class TrainerFailedError(Exception):
    """A run could not be carried out; `died` tells whether the process was lost, or the run failed by itself."""

    def __init__(self, reason: str, died: bool) -> None:
        super().__init__(reason)
        self.died = died


class Sweep:
    """One supervisor at work on one study."""

    def __init__(self, plan: Plan, display: Terminal) -> None:
        self.plan, self.display, self.folder = plan, display, plan.folder
        self._trainer: Trainer | None = None
        self._began = time.monotonic()

    def run(self) -> Record | None:
        """Carry out the plan; returns the best trial's record."""
        claim(self.plan)
        try:
            with FileLock(self.folder.path / "supervisor.lock", timeout=0):
                return self._run()
        except Timeout:
            raise UserError(f"study {self.plan.study!r} is already being worked on by another process") from None

    def _run(self) -> Record | None:
        self.study = Study(self.folder, self.plan.study, self.plan.space, self.plan.seed)
        try:
            self._refuse_what_cannot_run(self._ensure_trainer().ready.device)
            self.mirror = Mirror(self.folder, self.plan.study)
            self.folder.clear_attempts()
            self._settle_interrupted()
            self.mirror.catch_up(self.folder.records())
            self._baselines()
            self._trials()
        finally:
            if self._trainer is not None:
                self._trainer.close()
        number = self.study.best()
        best = read_record(self.folder.trial(number)) if number is not None else None
        self.mirror.catch_up(self.folder.records())
        self.mirror.close(best)
        return best

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

    def _refuse_what_cannot_run(self, device: str) -> None:
        """Say what the device at hand cannot do before anything is trained."""
        refusals = {"the space": self.plan.space.refused_on(device)}
        for name, recipe in self.plan.recipes.items():
            refusals[f"baseline {name}"] = recipe.under(self.plan.space.budget, device)[0].refused_on(device)
        for what, refusal in refusals.items():
            if refusal:
                raise UserError(f"{what} cannot run here: {refusal}")

    def _settle_interrupted(self) -> None:
        """Tell what a killed supervisor had recorded but not told; let the rest count as failed, and try it again."""
        for trial, config, record in self.study.interrupted():
            if record is None:
                run = self._trial_run(trial, config)
                record = self._record(run, [], None, "interrupted: the supervisor died", _now())
                store(self.folder.attempt(), run.folder, record)
            died = record.state == "fail" and self.study.may_retry(trial)
            self.study.tell(trial, record, retry=died)

    def _baselines(self) -> None:
        device = self._ensure_trainer().ready.device
        for name, recipe in self.plan.recipes.items():
            config, notes = recipe.under(self.plan.space.budget, device)
            kind: Kind = "zero_shot" if config.method == "none" else "recipe"
            folder = self.folder.baseline(name, self.plan.seed)
            run = Run(kind, name, config, self.plan.seed, folder, notes=tuple(notes))
            if is_stored(folder) and read_record(folder).state == "complete":
                self.display.known(read_record(folder))
            else:
                self._carry_out(run, lambda rung: True)

    def _trials(self) -> None:
        for _, record in self.folder.records():
            if record.kind == "trial":
                self.display.known(record)
        while self.study.used() < self.plan.trials:
            timeout = self.plan.timeout
            if timeout is not None and time.monotonic() - self._began > timeout:
                self.display.say(f"the time-out of {timeout:g} s is reached: no new trial is begun")
                return
            trial, config = self.study.ask()
            try:
                record = self._carry_out(self._trial_run(trial, config), self._judge(trial))
                retry = False
            except TrainerFailedError as failure:
                record = read_record(self.folder.trial(trial.number))
                retry = failure.died and self.study.may_retry(trial)
            self.study.tell(trial, record, retry=retry)

    def _trial_run(self, trial: optuna.Trial, config: TrialConfig) -> Run:
        folder = self.folder.trial(trial.number)
        return Run("trial", f"trial {trial.number}", config, self.plan.seed, folder, number=trial.number)

    def _judge(self, trial: optuna.Trial) -> Callable[[Rung], bool]:
        return lambda rung: self.study.may_go_on(trial, rung)

    def _carry_out(self, run: Run, judge: Callable[[Rung], bool]) -> Record:
        """Train, record, mirror. A failure is recorded too, then raised for trials and reported for baselines."""
        attempt, began, rungs = self.folder.attempt(), _now(), list[Rung]()
        self.display.begin(run.name, run.config)
        self.mirror.begin(run.folder, run.name, run.kind, run.config, run.seed)
        failure: TrainerFailedError | None = None
        finished: Finished | None = None
        try:
            finished = self._converse(run, attempt, judge, rungs)
        except TrainerFailedError as error:
            failure = error
        record = self._record(run, rungs, finished, str(failure), began)
        store(attempt, run.folder, record)
        self.mirror.end(run.folder, record)
        self.display.end(record)
        if failure is not None and run.kind == "trial":
            raise failure
        return record

    def _converse(self, run: Run, attempt: Path, judge: Callable[[Rung], bool], rungs: list[Rung]) -> Finished:
        """Hand the run to the trainer and answer its reports."""
        trainer = self._ensure_trainer()
        order = Train(config=run.config, budget=self.plan.space.budget, seed=run.seed, attempt=str(attempt.resolve()))
        trainer.send(order)
        while True:
            try:
                answer = trainer.receive()
            except TrainerDiedError as error:
                self._drop_trainer()
                raise TrainerFailedError(str(error), died=True) from None
            if isinstance(answer, Report):
                rungs.append(answer.rung)
                self.display.rung(run.name, answer.rung)
                self.mirror.rung(run.folder, answer.rung)
                if not answer.last:
                    trainer.send(Decide(go_on=judge(answer.rung)))
            elif isinstance(answer, Finished):
                return answer
            elif isinstance(answer, Failed):
                if answer.poisoned:
                    self._drop_trainer()
                raise TrainerFailedError(answer.reason, died=False)
            else:
                raise AssertionError(f"no answer to a train order: {answer!r}")

    def _drop_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None

    def _record(self, run: Run, rungs: list[Rung], finished: Finished | None, reason: str, began: str) -> Record:
        ready = self._ensure_trainer().ready
        result = finished.result if finished else None
        splits = ready.data["splits"]
        return Record(
            kind=run.kind,
            name=run.name,
            number=run.number,
            seed=run.seed,
            state=result.state if result else "fail",
            reason=result.reason if result else reason,
            config=run.config,
            budget=self.plan.space.budget,
            notes=run.notes,
            rungs=result.rungs if result else tuple(rungs),
            cost=result.cost if result else None,
            started=began,
            ended=_now(),
            environment=ready.environment,
            data={
                "task": self.plan.task.name,
                "model": self.plan.model,
                "languages": ready.data["languages"],
                **{name: split["hash"] for name, split in splits.items()},
            },
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
