"""Putting right what died: trials that nobody works on any more are told or tried again, and no ghost stays running.

Optuna's own fail_stale_trials marks a trial as failed before anybody can look for its record, so this is ours.
"""

import json
import os
from collections.abc import Callable, Collection

from optuna.trial import FrozenTrial

from harness.orchestration.worker import failure
from harness.plan import Plan
from harness.records.study_folder import Run, StudyFolder, is_stored, read_record, read_rungs, store
from harness.search.study import Retry, Study

INTERRUPTED = "interrupted: the supervisor died"
LOST = "interrupted: its worker was lost"


def end_dead_trials(study: Study, plan: Plan, dead: Callable[[FrozenTrial], bool], reason: str, retry: Retry) -> None:
    """End each running trial that is dead: by its record where there is one, else as failed, to be tried again.

    Its attempt becomes the record's folder, so that the retry can go on from the checkpoint there; a worker that was
    only asleep finds that it no longer holds the trial.
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
                if folder.is_dir():  # the crash came between the two halves of storing
                    os.replace(folder, attempt)
                attempt.mkdir(exist_ok=True)
                record = failure(plan, run, reason, rungs=read_rungs(attempt / "checkpoint"))
                store(attempt, folder, record)
            study.tell(trial, record, retry)


def clean_up_attempts(folder: StudyFolder, plan: Plan, runs: Collection[Run], spare: Collection[str] = ()) -> None:
    """Keep what interrupted baselines and replicates had reached as their failed record; remove all other attempts."""
    known = {folder.key(run.folder): run for run in runs}
    for about in folder.path.glob("attempts/*/run.json"):
        if about.parent.name in spare:
            continue
        stored = json.loads(about.read_text(encoding="utf-8"))
        run, rungs = known.get(stored["record"]), read_rungs(about.parent / "checkpoint")
        complete = run and is_stored(run.folder) and read_record(run.folder).state == "complete"
        if run and rungs and not complete and stored["config"] == run.config.settings():
            store(about.parent, run.folder, failure(plan, run, INTERRUPTED, rungs=rungs))
    folder.clear_attempts(spare)
