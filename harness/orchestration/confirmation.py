"""Confirmation: the best configurations and every trained baseline again, with fresh seeds that all of them share."""

from dataclasses import replace
from pathlib import Path

from harness.plan import Plan
from harness.records.study_folder import Run, is_searched, is_stored, read_record
from harness.records.tuned_baselines import tuned_baselines
from harness.search.best_trials import ranked_trials
from harness.search.study import Study


def replicates(plan: Plan, study: Study, baselines: list[Run]) -> list[Run]:
    """The runs of `--confirm K --seeds S`; the tuning seed is left out, for the search has selected on it.

    A baseline with a search of its own is run again as it is, and under the best settings of that search.

    Seeds are the outer loop: after a time-out every system has the same ones, and stays paired.
    """
    folder, search_options = study.folder, plan.search_options
    if not search_options.confirm or not search_options.seeds:
        return []
    places = [folder.trial(number) for number in ranked_trials(study)[: search_options.confirm]]
    recipes = [run for run in baselines if run.kind == "recipe" and not is_searched(run)]
    places += [run.folder for run in recipes if _complete(run.folder)]
    places += [held.best[0] for held in tuned_baselines(folder.records())]
    chosen = [Run.of(place, read_record(place)) for place in dict.fromkeys(places)]
    return [
        replace(run, kind="replicate", seed=seed, folder=folder.replicate(run.folder, seed))
        for seed in fresh_seeds(plan)
        for run in chosen
    ]


def fresh_seeds(plan: Plan) -> list[int]:
    """S seeds after the tuning seed."""
    return [plan.seed + place for place in range(1, plan.search_options.seeds + 1)]


def _complete(folder: Path) -> bool:
    return is_stored(folder) and read_record(folder).state == "complete"
