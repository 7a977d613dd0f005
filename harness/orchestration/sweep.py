"""Run a sweep: the baselines, the trials of the search, and the follow-up runs."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from harness.errors import UserError
from harness.hardware.gpus import gpus
from harness.orchestration.already_done import set_changed_aside
from harness.orchestration.display import ProgressDisplay
from harness.orchestration.follow_up_runs import followups
from harness.orchestration.gpu_assignment import GPUAssignment, gpu_assignments
from harness.orchestration.mlflow_thread import MLflowThread
from harness.orchestration.pack_size import trials_per_pass
from harness.orchestration.recovery import INTERRUPTED, clean_up_attempts, end_dead_trials
from harness.orchestration.retention import remove_other_tuned_weights
from harness.orchestration.shared_trainer import SharedTrainer
from harness.orchestration.stop_conditions import stop_reason
from harness.orchestration.stop_signals import StopSignals
from harness.orchestration.time_accounting import new_time_account
from harness.orchestration.trainer_launch import Trainer
from harness.orchestration.trial_loop import run_trials
from harness.orchestration.worker import Worker
from harness.plan import Plan, needed_dimensions
from harness.records.study_folder import Run, is_stored, read_record, without_attempts
from harness.search.baseline_tuning import tuning_runs
from harness.search.best_trials import best_trial
from harness.search.heartbeat import Heartbeat
from harness.search.storage import Database
from harness.search.study import N_TRIALS, Study
from harness.search.warm_start import warm_start
from harness.spec.budget import Budget, epoch_examples
from harness.spec.recipe import Recipe
from harness.spec.result import Kind, Record

SUPERVISOR = "supervisor"  # name of the local workers in Optuna's trials


class Sweep:
    """The supervisor of one study."""

    def __init__(self, plan: Plan, display: ProgressDisplay, trainer: Trainer | None = None) -> None:
        """Initialize; `trainer` is that of the first worker, if it is starting already."""
        self.plan, self.display, self.folder = plan, display, plan.folder
        self._coming = trainer
        self._began = time.monotonic()
        self.ended: str | None = None  # why the search ended before its number of trials
        self.stop, self.workers = StopSignals(), list[Worker]()

    def run(self) -> Record | None:
        """Run the plan and return the best trial's record.

        Raises:
            KeyboardInterrupt: A signal requested a stop; everything is stored.
        """
        compute, database = self.plan.compute, Database(self.folder.path, self.plan.compute.address())
        self.study = Study(
            self.folder, self.plan.study, self.plan.space, self.plan.seed, database, needed_dimensions(self.plan)
        )
        self.study.optuna.set_user_attr(N_TRIALS, self.plan.trials)
        self._end_dead_trials()
        if compute.launcher == "local":
            found = gpu_assignments(compute, self.plan.processes)
            together = trials_per_pass(self.plan)
            self.display.workers = together * len(found)
            if together > 1:
                self.display.say(f"up to {together} LoRA trials train in one pass (--pack off: one at a time)")
            for assignment in found:
                self.workers += self._crew(assignment, together, self._coming if assignment is found[0] else None)
        self.heartbeat = Heartbeat(database)
        try:
            with MLflowThread(self.folder, self.plan.study, self.display.say, compute.mlflow_uri) as self.mirror:
                best_run = self._sweep()
        finally:
            self.heartbeat.stop()
            for worker in self.workers:
                worker.close()
        if self.stop.asked.is_set():
            raise KeyboardInterrupt
        return best_run

    def _crew(self, assignment: GPUAssignment, together: int, coming: Trainer | None) -> list[Worker]:
        """Return the workers of one trainer, which share its time account."""
        time_account = new_time_account(self.folder, coming.began if coming else None)
        shared = SharedTrainer() if together > 1 else None
        where = (self.plan, self.display, [self.display], self.stop, assignment, time_account, shared)
        return [Worker(*where, coming if number == 0 else None) for number in range(together)]

    def _sweep(self) -> Record | None:
        """Run everything; what to run depends on the device, which the first trainer reports."""
        device = self.workers[0].trainer.ready.device if self.workers else self._device_of_jobs()
        self._refuse_what_cannot_run(device)
        baselines = self._baselines(device)
        baselines += tuning_runs(self.plan, baselines)
        set_changed_aside(self.plan, baselines, self.display.say)
        attempts = [str(trial.user_attrs.get("attempt_id")) for trial in self.study.running()]
        known = [*baselines, *followups(self.plan, self.study, baselines)]
        clean_up_attempts(self.folder, self.plan, known, spare=attempts)
        warm_start(self.plan, self.study, baselines, self.display.say)
        self.mirror.follow()
        for worker in self.workers:
            worker.watchers.append(self.mirror)
        with self.stop.signals(self.display.say, self.workers):
            self._execute_all(baselines)
            self._end_dead_trials()
            remove_other_tuned_weights(self.folder)
            if (runs := followups(self.plan, self.study, baselines)) and not self.stop.asked.is_set():
                self.display.say(f"the search is complete; {len(runs)} follow-up runs begin")
                set_changed_aside(self.plan, runs, self.display.say)
                self._execute_all(runs)  # trials are left only if the search ended early
            clean_up_attempts(self.folder, self.plan, [*baselines, *runs])
            best_run = self._best_trial()
            self.mirror.finish(best_run)
        return best_run

    def _device_of_jobs(self) -> str:
        return "cuda" if self.plan.compute.launcher == "slurm" or gpus() else "cpu"

    def _best_trial(self) -> Record | None:
        number = best_trial(self.study)
        return read_record(self.folder.trial(number)) if number is not None else None

    def _end_dead_trials(self) -> None:
        """End trials of dead local workers. The lock excludes other local ones; cluster jobs have heartbeats."""
        alone = self.plan.compute.launcher == "local"
        mine = (None, SUPERVISOR)
        end_dead_trials(
            self.study, self.plan, lambda t: alone or t.user_attrs.get("worker") in mine, INTERRUPTED, "interrupted"
        )

    def _refuse_what_cannot_run(self, device: str) -> None:
        """Raise a UserError for settings that the device does not support, before anything is trained."""
        budget = self._budget()
        refusals = {"the space": self.plan.space.refused_on(device)}
        for name, recipe in self.plan.recipes.items():
            config, _ = recipe.adapt(budget, device, processes=self.plan.processes)
            refusals[f"baseline {name}"] = config.refused_on(device)
        for what, refusal in refusals.items():
            if refusal:
                raise UserError(f"{what} cannot run here: {refusal}")

    def _budget(self) -> Budget:
        """Return the space's budget, with epochs converted to examples."""
        budget, report = self.plan.space.budget, self.folder.path / "data_report.json"
        if budget.epochs is None:
            return budget
        if self.workers:
            return self.workers[0].resolved(budget)
        if not report.is_file():
            raise UserError(
                "the size of an epoch must be known before jobs are submitted: run with --prepare-only first"
            )
        return budget.resolved(epoch_examples(json.loads(report.read_text(encoding="utf-8"))))

    def _baselines(self, device: str) -> list[Run]:
        budget, runs = self._budget(), list[Run]()
        for name, recipe in self.plan.recipes.items():
            config, notes = recipe.adapt(budget, device, self.plan.model, self.plan.processes)
            kind: Kind = "zero_shot" if config.method == "none" else "recipe"
            folder = self.folder.baseline(name, self.plan.seed)
            if (stored := self._stored_elsewhere(folder, recipe, budget)) is not None:
                config, notes = stored.config, list(stored.notes)
            own_budget = recipe.with_published_rungs(budget)
            run = Run(kind, name, config, self.plan.seed, folder, notes=tuple(notes), budget=own_budget)
            runs.append(run)
        return runs

    def _stored_elsewhere(self, folder: Path, recipe: Recipe, budget: Budget) -> Record | None:
        """Return the complete record of a baseline that was run on another device before the study was moved."""
        if not is_stored(folder) or (record := read_record(folder)).state != "complete":
            return None
        adapted = (recipe.adapt(budget, device, processes=self.plan.processes)[0] for device in ("cuda", "cpu"))
        return record if record.config in adapted else None

    def _execute_all(self, runs: list[Run]) -> None:
        """Let all workers run these runs first, then trials until the study has enough."""
        for _, record in without_attempts(self.folder.records()):
            if record.kind == "trial":
                self.display.known(record)
        if self.plan.compute.launcher != "local":
            try:
                from harness.orchestration.cluster import Cluster
            except ImportError:
                raise UserError("--launcher slurm needs submitit: pip install 'whisper-sweep[cluster]'") from None
            cluster = Cluster(
                self.plan,
                self.study,
                gpu_assignments(self.plan.compute, self.plan.processes),
                [self.display, self.mirror],
                self.stop,
            )
            cluster.run(runs, self.display.say)
            return
        waiting = deque(runs)

        def work(worker: Worker) -> None:
            while waiting and not self.stop.asked.is_set():
                worker.execute(waiting.popleft())
            run_trials(self.study, worker, self.heartbeat, self.plan.trials, SUPERVISOR, self._may_begin)

        self._in_threads(work)

    def _may_begin(self) -> bool:
        """Whether another trial may begin; the reason against it is printed once, and in the summary."""
        if self.ended is None and (reason := stop_reason(self.plan, self.study, time.monotonic() - self._began)):
            self.ended = reason
            self.display.say(f"{reason}: no more trials are started")
        return self.ended is None and not self.stop.asked.is_set()

    def _in_threads(self, work: Callable[[Worker], None]) -> None:
        """Run each worker in a thread, so that this thread can handle signals, and raise the first error."""
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
