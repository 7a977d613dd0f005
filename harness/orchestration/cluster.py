"""Run the workers as cluster jobs with submitit; this process submits and monitors them, and writes MLflow."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import submitit
from optuna.trial import FrozenTrial
from rich.console import Console

from harness.errors import UserError
from harness.hardware.processes import die_with_parent
from harness.orchestration.already_done import changes
from harness.orchestration.display import ProgressDisplay
from harness.orchestration.gpu_assignment import GPUAssignment
from harness.orchestration.recovery import LOST, end_dead_trials, store_interrupted
from harness.orchestration.stop_conditions import stop_reason
from harness.orchestration.stop_signals import StopSignals
from harness.orchestration.trainer_launch import python_path
from harness.orchestration.trial_loop import run_trials
from harness.orchestration.worker import Watcher, Worker
from harness.plan import Plan, needed_dimensions
from harness.records.study_folder import Run, is_stored, read_record
from harness.search.best_trials import total_seconds
from harness.search.heartbeat import GRACE_SECONDS, Heartbeat, HeartbeatMonitor
from harness.search.storage import Database
from harness.search.study import Study

COORDINATOR = "coordinator"  # study attribute: whose jobs may work; null: stop
POLL_SECONDS = 2.0
MAX_LOST_JOBS = 5  # for each worker, in a row without progress


def job(plan: Plan, assignment: GPUAssignment, runs: list[Run]) -> None:
    """Run one worker: its share of the baselines, then trials. SIGTERM lets it finish its rung."""
    stop, began = StopSignals(), time.monotonic()

    def may_begin() -> bool:
        return not stop.asked.is_set() and stop_reason(plan, study, time.monotonic() - began) is None

    if assignment.parent is not None:
        die_with_parent()
        threading.Thread(target=_exit_with_parent, args=(assignment.parent,), daemon=True).start()
    database = Database(plan.folder.path, plan.compute.address())
    study, heartbeat = (
        Study(plan.folder, plan.study, plan.space, plan.seed, database, needed_dimensions(plan)),
        Heartbeat(database),
    )
    threading.Thread(target=_listen, args=(study, assignment, stop), daemon=True).start()
    worker = Worker(plan, ProgressDisplay(plan, Console(soft_wrap=True)), [], stop, assignment)
    worker.watchers.append(worker.display)
    with stop.signals(worker.display.say, [worker]):
        try:
            for run in runs:
                if not stop.asked.is_set():
                    worker.execute(run)
            run_trials(study, worker, heartbeat, plan.trials, assignment.name, may_begin)
        finally:
            heartbeat.stop()
            worker.close()


def _exit_with_parent(parent: int) -> None:
    """Exit when the submitting process is gone, because submitit's local executor does not end its jobs."""
    while os.path.exists(f"/proc/{parent}"):
        time.sleep(1.0)
    os._exit(1)  # the trainer dies with this process


def _listen(study: Study, assignment: GPUAssignment, stop: StopSignals) -> None:
    while study.optuna.user_attrs.get(COORDINATOR) == assignment.coordinator:
        time.sleep(POLL_SECONDS)
    stop.asked.set()


def _has_ended(plan: Plan, run: Run) -> bool:
    """Whether a run has a record that answers for it, and not one that says it was interrupted."""
    if not is_stored(run.folder):
        return False
    record = read_record(run.folder)
    return not (record.reason or "").startswith("interrupted") and not changes(plan, run, record)


class Cluster:
    """The cluster jobs of one sweep."""

    def __init__(
        self,
        plan: Plan,
        study: Study,
        gpu_assignments: Sequence[GPUAssignment],
        watchers: Sequence[Watcher],
        stop: StopSignals,
    ) -> None:
        self.plan, self.study, self.gpu_assignments, self.watchers, self.stop = (
            plan,
            study,
            gpu_assignments,
            watchers,
            stop,
        )
        self.name, self._began = gpu_assignments[0].coordinator, time.monotonic()
        self.monitor = HeartbeatMonitor(study.database)
        self.jobs: dict[int, submitit.Job[None]] = {}
        self._complete = False
        os.environ["PYTHONPATH"] = python_path()  # so that jobs find the harness
        self._passed_on = {plan.folder.key(folder) for folder, _ in plan.folder.records()}

    def run(self, baselines: Sequence[Run], say: Callable[[str], None]) -> None:
        """Keep a job running for every GPU assignment until the study has its trials, or a stop is requested."""
        lost, progress = 0, self._progress(baselines)
        with self._coordinating():
            while True:
                ended = [number for number, job in self.jobs.items() if job.done()]
                for number in ended:
                    del self.jobs[number]
                self._end_dead_trials()
                store_interrupted(self.plan.folder, self.plan, baselines, self._is_dead)
                before, progress = progress, self._progress(baselines)
                lost = lost + len(ended) if progress == before else 0
                if lost > MAX_LOST_JOBS * len(self.gpu_assignments):
                    raise UserError(f"jobs end without work done; their logs are in {self._logs}")
                self._pass_on_records()
                used = self.study.count_finished()
                missing = [run for run in baselines if not _has_ended(self.plan, run)]
                searching = used < self.plan.trials and not self._late()
                self._complete = not missing and used >= self.plan.trials
                if self._complete or self.stop.asked.is_set() or not (searching or missing or self.jobs):
                    return
                for assignment in self.gpu_assignments:
                    share = [run for run in baselines[assignment.number :: len(self.gpu_assignments)] if run in missing]
                    if assignment.number not in self.jobs and (
                        share or searching
                    ):  # a job without work would end at once
                        self.jobs[assignment.number] = self._submit(assignment, share)
                        say(f"worker {assignment.number} is job {self.jobs[assignment.number].job_id}")
                time.sleep(POLL_SECONDS)

    def _progress(self, baselines: Sequence[Run]) -> tuple[int, float, int]:
        """Return what grows with each rung: finished trials, seconds of all trials, rungs of the other runs.

        A job may be shorter than a trial, which then takes several.
        """
        rungs = sum(len(read_record(run.folder).rungs) for run in baselines if is_stored(run.folder))
        return self.study.count_finished(), total_seconds(self.study), rungs

    def _late(self) -> bool:
        """Whether no more trials may begin."""
        return stop_reason(self.plan, self.study, time.monotonic() - self._began) is not None

    @property
    def _logs(self) -> str:
        return str(self.plan.folder.path / "jobs")

    def _submit(self, assignment: GPUAssignment, runs: list[Run]) -> "submitit.Job[None]":
        compute = self.plan.compute
        executor = submitit.AutoExecutor(folder=self._logs, cluster="slurm" if compute.launcher == "slurm" else "local")
        settings: dict[str, Any] = {"timeout_min": 24 * 60, "name": self.plan.study}
        if compute.launcher == "slurm":
            settings |= {"gpus_per_node": 1, **{f"slurm_{k}": v for k, v in compute.slurm}}
        executor.update_parameters(**settings)
        plan = replace(self.plan, compute=replace(compute, mlflow_uri=None))  # this process alone writes MLflow
        return executor.submit(job, plan, assignment, runs)

    def _is_dead(self, attempt: str, worker: str | None) -> bool:
        """Whether a worker was a job of this process that has ended."""
        alive = {f"{self.name}-{number}" for number in self.jobs}
        return bool(worker and worker.startswith(self.name)) and worker not in alive

    def _end_dead_trials(self) -> None:
        """End the running trials of jobs that ended, and those without a heartbeat."""
        running = self.study.running()
        silent = set(self.monitor.stale_trials([trial._trial_id for trial in running]))

        def dead(trial: FrozenTrial) -> bool:
            return trial._trial_id in silent or self._is_dead("", trial.user_attrs.get("worker"))

        end_dead_trials(self.study, self.plan, dead, LOST, "died")

    def _pass_on_records(self) -> None:
        """Pass new records to the watchers."""
        for folder, record in self.plan.folder.records(skip=self._passed_on):
            self._passed_on.add(self.plan.folder.key(folder))
            run = Run.of(folder, record)
            for watcher in self.watchers:
                watcher.begin(run, record.started)
                for rung in record.rungs:
                    watcher.rung(run, rung)
                watcher.end(run, record)

    @contextmanager
    def _coordinating(self) -> Iterator[None]:
        self.study.optuna.set_user_attr(COORDINATOR, self.name)
        try:
            yield
        finally:
            self.study.optuna.set_user_attr(COORDINATOR, None)
            # A job may still finish its rung; once all work is done, one that does not exit is stuck.
            end = time.monotonic() + (GRACE_SECONDS if self._complete else float("inf"))
            while self._unfinished_jobs() and time.monotonic() < end and not self.stop.now.is_set():
                time.sleep(POLL_SECONDS / 4)
            for left in self._unfinished_jobs():
                left.cancel()
            self._pass_on_records()

    def _unfinished_jobs(self) -> list["submitit.Job[None]"]:
        return [job for job in self.jobs.values() if not job.done()]
