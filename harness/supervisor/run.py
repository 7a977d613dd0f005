"""The sweep: baselines, then trials until N slots are used, each recorded before anyone is told."""

import time

import optuna
from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.record import Run, is_stored, read_record, store
from harness.spec.result import Kind, Record
from harness.spec.trial import TrialConfig
from harness.supervisor.display import Terminal
from harness.supervisor.plan import Plan, claim
from harness.supervisor.study import Study
from harness.supervisor.worker import Worker, now
from harness.tracking import Mirror


class Sweep:
    """One supervisor at work on one study."""

    def __init__(self, plan: Plan, display: Terminal) -> None:
        self.plan, self.display, self.folder = plan, display, plan.folder
        self.worker = Worker(plan, display)
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
            self._refuse_what_cannot_run(self.worker.ready.device)
            self.mirror = Mirror(self.folder, self.plan.study)
            self.folder.clear_attempts()
            self._settle_interrupted()
            self.mirror.catch_up(self.folder.records())
            self._baselines()
            self._trials()
        finally:
            self.worker.close()
        number = self.study.best()
        best = read_record(self.folder.trial(number)) if number is not None else None
        self.mirror.catch_up(self.folder.records())
        self.mirror.close(best)
        return best

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
                record = self.worker.record(run, now(), [], reason="interrupted: the supervisor died")
                store(self.folder.attempt(), run.folder, record)
            died = record.state == "fail" and self.study.may_retry(trial)
            self.study.tell(trial, record, retry=died)

    def _baselines(self) -> None:
        device, budget = self.worker.ready.device, self.plan.space.budget
        for name, recipe in self.plan.recipes.items():
            config, notes = recipe.under(budget, device, self.plan.model)
            kind: Kind = "zero_shot" if config.method == "none" else "recipe"
            folder = self.folder.baseline(name, self.plan.seed)
            run = Run(kind, name, config, self.plan.seed, folder, notes=tuple(notes), budget=recipe.judged(budget))
            if is_stored(folder) and read_record(folder).state == "complete":
                self.display.known(read_record(folder))
            else:
                self.worker.carry_out(run, lambda rung: True, [self.display, self.mirror])

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
            outcome = self.worker.carry_out(
                self._trial_run(trial, config),
                lambda rung, trial=trial: self.study.may_go_on(trial, rung),  # type: ignore[misc]
                [self.display, self.mirror],
            )
            self.study.tell(trial, outcome.record, retry=outcome.died and self.study.may_retry(trial))

    def _trial_run(self, trial: optuna.Trial, config: TrialConfig) -> Run:
        folder = self.folder.trial(trial.number)
        return Run("trial", f"trial {trial.number}", config, self.plan.seed, folder, number=trial.number)
