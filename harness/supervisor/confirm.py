"""Confirmation: the best configurations and every trained baseline again, with fresh seeds that all of them share."""

from pathlib import Path

from harness.record import Run, StudyFolder, is_stored, read_record
from harness.supervisor.plan import Plan
from harness.supervisor.study import Study


def replicates(plan: Plan, study: Study, baselines: list[Run]) -> list[Run]:
    """The runs of `--confirm K --seeds S`; the tuning seed is left out, for the search has selected on it.

    Seeds are the outer loop: after a time-out every system has the same ones, and stays paired.
    """
    folder, goals = study.folder, plan.goals
    if not goals.confirm or not goals.seeds:
        return []
    trials = [read_record(folder.trial(number)) for number in study.ranked()[: goals.confirm]]
    chosen = [(str(record.number), Run.of(folder.trial(record.number or 0), record)) for record in trials]
    chosen += [(run.name, run) for run in baselines if run.kind == "recipe" and _complete(run.folder)]
    return [
        Run("replicate", run.name, run.config, seed, replicate(folder, name, seed), run.number, run.notes, run.budget)
        for seed in fresh_seeds(plan)
        for name, run in chosen
    ]


def fresh_seeds(plan: Plan) -> list[int]:
    """S seeds after the tuning seed."""
    return [plan.seed + place for place in range(1, plan.goals.seeds + 1)]


def replicate(folder: StudyFolder, name: str, seed: int) -> Path:
    """The folder of a replicate's record; `name` is a trial's number or a baseline's name."""
    return folder.path / "replicates" / name / str(seed)


def _complete(folder: Path) -> bool:
    return is_stored(folder) and read_record(folder).state == "complete"
