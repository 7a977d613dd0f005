"""What every worker does, on this machine or another: claim a slot, carry out its trial, and end it."""

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

WAIT_SECONDS = 2.0


def run_trials(
    study: Study, worker: Worker, heartbeat: Heartbeat, slots: int, name: str, may_begin: Callable[[], bool]
) -> None:
    """Work until all slots are used up; while the last are others' work, wait, for those may have to be tried again."""
    removed = set[int]()
    while study.used() < slots and may_begin():
        if not run_next_trial(study, worker, heartbeat, slots, name, removed):
            worker.stop.asked.wait(WAIT_SECONDS)


def run_next_trial(
    study: Study, worker: Worker, heartbeat: Heartbeat, slots: int, name: str, removed: set[int]
) -> bool:
    """One trial; False where no slot was free. `removed` are the trials whose weights are known to be gone."""
    attempt = study.folder.path / "attempts" / uuid.uuid4().hex[:12]
    claimed = study.claim(slots, name, attempt.name)
    if claimed is None:
        return False
    trial, config = claimed
    attempt.mkdir(parents=True)
    folder = study.folder.trial(trial.number)
    run = Run("trial", f"trial {trial.number}", config, worker.plan.seed, folder, number=trial.number)

    finished_trials = FinishedTrials(study)

    def judge(rung: Rung) -> bool:
        return study.may_continue(trial, rung, attempt.name) and finished_trials.may_continue(rung, config)

    with heartbeat.sending_for(trial._trial_id):
        resume = study.checkpoint(trial)
        study.replay(trial, read_rungs(resume)[:-1] if resume else (), attempt.name)
        if refusal := study.refusal(config):
            outcome = worker.refuse(run, attempt, refusal)
        else:
            outcome = worker.attempt(
                run, attempt, judge, resume, finished_trials.may_beat_best, "died" in trial.user_attrs
            )
        record = apply_limits(study.space.limits, outcome.record, study.trainable_parameters(config))
        held = study.finish(trial, attempt, record, outcome.retry)
    if not held:
        worker.display.say(f"{run.name} was given to another worker meanwhile; this attempt is dropped")
        shutil.rmtree(attempt, ignore_errors=True)
        return True
    worker.ended(run, record)
    if outcome.retry is None:
        study.forget_checkpoints(trial)
    remove_other_weights(study, worker.plan.keep, removed)
    return True
