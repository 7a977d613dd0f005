"""What every worker does, on this machine or another: claim a slot, carry out its trial, and end it."""

import shutil
import uuid
from collections.abc import Callable

from harness.orchestration.retention import keep_best
from harness.orchestration.worker import Worker
from harness.records.study_folder import Run, read_rungs
from harness.search.constraints import judged
from harness.search.heartbeat import Heart
from harness.search.rivals import Rivals
from harness.search.study import Study
from harness.spec.result import Rung

WAIT_SECONDS = 2.0


def carry_out_trials(
    study: Study, worker: Worker, heart: Heart, slots: int, name: str, may_begin: Callable[[], bool]
) -> None:
    """Work until all slots are used up; while the last are others' work, wait, for those may have to be tried again."""
    removed = set[int]()
    while study.used() < slots and may_begin():
        if not carry_out_trial(study, worker, heart, slots, name, removed):
            worker.stop.asked.wait(WAIT_SECONDS)


def carry_out_trial(study: Study, worker: Worker, heart: Heart, slots: int, name: str, removed: set[int]) -> bool:
    """One trial; False where no slot was free. `removed` are the trials whose weights are known to be gone."""
    attempt = study.folder.path / "attempts" / uuid.uuid4().hex[:12]
    claimed = study.claim(slots, name, attempt.name)
    if claimed is None:
        return False
    trial, config = claimed
    attempt.mkdir(parents=True)
    folder = study.folder.trial(trial.number)
    run = Run("trial", f"trial {trial.number}", config, worker.plan.seed, folder, number=trial.number)

    rivals = Rivals(study)

    def judge(rung: Rung) -> bool:
        return study.may_go_on(trial, rung, attempt.name) and rivals.may_go_on(rung, config)

    with heart.beating(trial._trial_id):
        resume = study.checkpoint(trial)
        study.replay(trial, read_rungs(resume)[:-1] if resume else (), attempt.name)
        if refusal := study.refusal(config):
            outcome = worker.refuse(run, attempt, refusal)
        else:
            outcome = worker.attempt(run, attempt, judge, resume, rivals.may_win, "died" in trial.user_attrs)
        record = judged(study.space.limits, outcome.record, study.trainable(config))
        held = study.finish(trial, attempt, record, outcome.retry)
    if not held:
        worker.display.say(f"{run.name} was given to another worker meanwhile; this attempt is dropped")
        shutil.rmtree(attempt, ignore_errors=True)
        return True
    worker.ended(run, record)
    if outcome.retry is None:
        study.forget_checkpoints(trial)
    keep_best(study, worker.plan.keep, removed)
    return True
