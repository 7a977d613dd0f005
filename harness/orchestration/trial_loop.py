"""Claim trials from the study and run them, one after another, on one worker of this or another machine."""

import shutil
import uuid
from collections.abc import Callable

from harness.orchestration.retention import remove_other_weights
from harness.orchestration.worker import Worker
from harness.records.study_folder import Run, read_rungs
from harness.search.constraints import apply_limits
from harness.search.finished_trials import FinishedTrials
from harness.search.heartbeat import Heartbeat
from harness.search.study import Study
from harness.spec.result import Rung

POLL_SECONDS = 2.0  # between two looks for a free slot


def run_trials(
    study: Study, worker: Worker, heartbeat: Heartbeat, n_trials: int, name: str, may_begin: Callable[[], bool]
) -> None:
    """Run trials until all n_trials are used.

    While other workers run the last trials, wait: one of them may be interrupted and need a retry.

    Args:
        study: The study.
        worker: Runs the trials on its trainer.
        heartbeat: Sends heartbeats for the running trial.
        n_trials: Number of trials that the study shall have.
        name: Name of the worker in the study's database.
        may_begin: Whether another trial may begin.
    """
    removed = set[int]()
    while study.count_finished() < n_trials and may_begin():
        if not run_next_trial(study, worker, heartbeat, n_trials, name, removed):
            worker.stop.asked.wait(POLL_SECONDS)


def run_next_trial(
    study: Study, worker: Worker, heartbeat: Heartbeat, n_trials: int, name: str, removed: set[int]
) -> bool:
    """Run the next trial. Returns False if no slot is free; for the arguments see `run_trials`.

    `removed` are the trials whose weights were removed already.
    """
    attempt = study.folder.path / "attempts" / uuid.uuid4().hex[:12]
    claimed = study.next_trial(n_trials, name, attempt.name)
    if claimed is None:
        return False
    trial, config = claimed
    attempt.mkdir(parents=True)
    folder = study.folder.trial(trial.number)
    run = Run("trial", f"trial {trial.number}", config, worker.plan.seed, folder, number=trial.number)

    finished_trials = FinishedTrials(study)

    def may_continue(rung: Rung) -> bool:
        return study.may_continue(trial, rung, attempt.name) and finished_trials.may_continue(rung, config)

    with heartbeat.sending_for(trial._trial_id):
        resume = study.checkpoint(trial)
        study.replay(trial, read_rungs(resume)[:-1] if resume else (), attempt.name)
        if refusal := study.refusal(config):
            outcome = worker.refuse(run, attempt, refusal)
        else:
            outcome = worker.attempt(
                run, attempt, may_continue, resume, finished_trials.may_beat_best, "died" in trial.user_attrs
            )
        record = apply_limits(study.space.limits, outcome.record, study.trainable_parameters(config))
        stored = study.finish(trial, attempt, record, outcome.retry)
    if stored is None:
        worker.display.say(f"another worker has retried {run.name}; this attempt is discarded")
        shutil.rmtree(attempt, ignore_errors=True)
        return True
    worker.ended(run, stored)
    if outcome.retry is None:
        study.remove_checkpoints(trial)
    remove_other_weights(study, worker.plan.keep, removed)
    return True
