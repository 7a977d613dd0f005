"""End the trials of workers that died, so that none stays RUNNING in Optuna, and schedule their retries.

Optuna's fail_stale_trials does not fit: it marks a trial as failed before its record can be looked for.
"""

import json
import os
from collections.abc import Callable, Collection

from optuna.trial import FrozenTrial

from harness.orchestration.already_done import identity, stored_result
from harness.orchestration.worker import failure
from harness.plan import Plan
from harness.records.answers import differences
from harness.records.study_folder import Run, StudyFolder, is_stored, read_record, read_rungs, store
from harness.search.study import Retry, Study, with_origin

INTERRUPTED = "interrupted: the supervisor died"
LOST = "interrupted: its worker was lost"


def end_dead_trials(study: Study, plan: Plan, dead: Callable[[FrozenTrial], bool], reason: str, retry: Retry) -> None:
    """End each dead trial: with its record if there is one, else as failed, to be retried.

    The attempt's folder becomes the record's folder, so that the retry resumes from its checkpoint. A worker that was
    only suspended finds later that the trial is no longer its own.

    Args:
        study: The study.
        plan: The plan of the sweep.
        dead: Whether a running trial is dead.
        reason: Reason for the record.
        retry: Kind of retry of a trial that reached no new rung. One that did was only interrupted, such as by the
            time limit of a cluster job.
    """
    for seen in study.running():
        with study.lock():
            frozen = study.database.storage.get_trial(seen._trial_id)
            if frozen.state.is_finished() or not dead(frozen):
                continue
            trial, config = study.trial(frozen)
            folder = study.folder.trial(frozen.number)
            if is_stored(folder):
                record = read_record(folder)
            else:
                run = Run("trial", f"trial {frozen.number}", config, plan.seed, folder, number=frozen.number)
                attempt = study.folder.path / "attempts" / frozen.user_attrs.get("attempt_id", "unclaimed")
                attempt.parent.mkdir(exist_ok=True)
                if folder.is_dir():  # interrupted between the two steps of storing
                    os.replace(folder, attempt)
                attempt.mkdir(exist_ok=True)
                record = failure(plan, run, reason, rungs=read_rungs(attempt / "checkpoint"))
                store(attempt, folder, with_origin(record, frozen))
            resumed = study.checkpoint(trial)
            advanced = len(record.rungs) > len(read_rungs(resumed) if resumed else ())
            study.tell(trial, record, "interrupted" if advanced else retry)


def clean_up_attempts(folder: StudyFolder, plan: Plan, runs: Collection[Run], spare: Collection[str] = ()) -> None:
    """Store the rungs of interrupted baselines and follow-up runs as failed records, and remove all other attempts."""
    store_interrupted(folder, plan, runs, lambda attempt, worker: attempt not in spare)
    folder.clear_attempts(spare)


def store_interrupted(
    folder: StudyFolder, plan: Plan, runs: Collection[Run], dead: Callable[[str, str | None], bool]
) -> None:
    """Store the rungs of baselines and follow-up runs whose worker died as failed records, to be resumed.

    Args:
        folder: The study's folder.
        plan: The plan of the sweep.
        runs: The baselines and follow-up runs.
        dead: Whether an attempt is dead, by the name of its folder and of its worker.
    """
    known = {folder.key(run.folder): run for run in runs}
    for about in folder.path.glob("attempts/*/run.json"):
        stored = json.loads(about.read_text(encoding="utf-8"))
        if not dead(about.parent.name, stored.get("worker")):
            continue
        run, rungs = known.get(stored["record"]), read_rungs(about.parent / "checkpoint")
        if run and rungs and not stored_result(plan, run) and not differences(stored, identity(plan, run)):
            record = failure(plan, run, INTERRUPTED, rungs=rungs)
            data = {**record.data, **stored.get("data", {})}
            store(about.parent, run.folder, record.model_copy(update={"data": data}))
