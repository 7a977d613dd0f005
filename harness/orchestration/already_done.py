"""Find out which runs need not be carried out, because a record answers for them."""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from harness import catalog
from harness.errors import UserError
from harness.plan import Plan
from harness.records.answers import data_hashes, differences, record_identity, run_identity, set_aside
from harness.records.study_folder import Run, is_searched, is_stored, read_record
from harness.spec.budget import epoch_examples
from harness.spec.result import Record
from harness.spec.trial import TrialConfig


def identity(plan: Plan, run: Run) -> dict[str, Any]:
    """Return what determines the result of a run; the data is that of the last trainer that came up."""
    budget, report, augmentation = run.budget or plan.space.budget, _data_report(plan), augmentation_hash(run.config)
    if report is None:
        return run_identity(run, budget, augmentation)
    return run_identity(run, budget.resolved(epoch_examples(report)), data_hashes(report) | augmentation)


def augmentation_hash(config: TrialConfig) -> dict[str, str]:
    """Return a hash of the content of a configuration's augmentation, without paths; empty without one."""
    if config.augmentation is None:
        return {}
    content = catalog.augmentation(config.augmentation).model_dump_json(exclude={"noise_folder"})
    return {"augmentation": hashlib.sha256(content.encode()).hexdigest()[:16]}


def changes(plan: Plan, run: Run, record: Record) -> list[str]:
    """Return in words how the run of a record differs from the one that is asked for; empty if it does not."""
    report = _data_report(plan)
    return differences(record_identity(record, epoch_examples(report) if report else None), identity(plan, run))


def stored_result(plan: Plan, run: Run) -> Record | None:
    """Return the record of a run that need not be carried out; None if there is none.

    A run that diverged or ran out of memory would do so again. One that failed is tried again.
    """
    if not is_stored(run.folder):
        return None
    record = read_record(run.folder)
    return None if record.state == "fail" or changes(plan, run, record) else record


def set_changed_aside(plan: Plan, runs: Iterable[Run], say: Callable[[str], None]) -> None:
    """Move records away that are of another configuration, budget or data than the run that is asked for.

    With the record of a baseline goes what was derived from it: its tuning, and the replicates of both.
    """
    folder = plan.folder
    for run in runs:
        if not is_stored(run.folder) or not (found := changes(plan, run, read_record(run.folder))):
            continue
        place = set_aside(folder, run.folder)
        if run.kind == "recipe" and not is_searched(run):
            name = run.folder.parent.name
            derived = [folder.path / "tuning" / name, *folder.path.glob(f"replicates/{name}-tuned-*")]
            for path in (*derived, folder.path / "replicates" / name):
                if path.is_dir():
                    set_aside(folder, path)
        say(f"{run.name} has changed ({'; '.join(found)}): it is trained again, and its record is kept in {place}")


def refuse_other_data(plan: Plan, report: dict[str, Any]) -> None:
    """Refuse to continue a study whose trials were trained on other data.

    Raises:
        UserError: The hash of a split differs.
    """
    hashes = data_hashes(report)
    for _, record in plan.folder.records():
        if record.kind == "trial" and record.data.keys() & hashes.keys():
            changed = [split for split, digest in hashes.items() if record.data.get(split, digest) != digest]
            if changed:
                raise UserError(
                    f"study {plan.study!r} has trials on other recordings or texts ({', '.join(changed)} changed "
                    f"since); name a new study with --study, or move {plan.folder.path} away"
                )
            return


def _data_report(plan: Plan) -> dict[str, Any] | None:
    path = plan.folder.path / "data_report.json"
    report: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return report
