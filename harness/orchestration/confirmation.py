"""Repeat the best configurations and every trained baseline with fresh seeds (`--confirm`)."""

from dataclasses import replace
from pathlib import Path

from harness.plan import Plan
from harness.records.study_folder import Run, is_searched, is_stored, read_record
from harness.records.tuned_baselines import tuned_baselines
from harness.search.best_trials import ranked_trials
from harness.search.study import Study


def replicates(plan: Plan, study: Study, baselines: list[Run]) -> list[Run]:
    """Return the runs of `--confirm K --seeds S`.

    A tuned baseline is repeated as it is and with the best settings of its search. The seed of the search is not used,
    because the search selected on it. Seeds are the outer loop, so that after a timeout all systems have the same ones
    and can be paired.
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
    """Return the S seeds that follow the seed of the search."""
    return [plan.seed + place for place in range(1, plan.search_options.seeds + 1)]


def _complete(folder: Path) -> bool:
    return is_stored(folder) and read_record(folder).state == "complete"
