"""What is done with the winner once the search is over: on parts of the data, and for use on all of it."""

from dataclasses import replace

from harness.orchestration.confirmation import fresh_seeds, replicates
from harness.plan import Plan
from harness.records.study_folder import Run, read_record
from harness.search.best_trials import best_trial
from harness.search.study import Study
from harness.spec.data_selection import DataSelection


def followups(plan: Plan, study: Study, baselines: list[Run]) -> list[Run]:
    """Every run that follows a search: confirmation, parts of the data, the refit."""
    return [*replicates(plan, study, baselines), *data_fractions(plan, study), *refit(plan, study)]


def data_fractions(plan: Plan, study: Study) -> list[Run]:
    """The runs of `--data-fractions`: the winner's settings on nested parts of train, under the winner's own budget.

    The whole is not among them: the winner was trained on it already. With `--confirm` they have the seeds of the
    winner's replicates, else the winner's own.
    """
    best_run, parts = _winner(study), [part for part in plan.search_options.data_fractions if part < 1]
    if best_run is None or best_run.number is None:
        return []
    seeds = fresh_seeds(plan) if plan.search_options.confirm and plan.search_options.seeds else [best_run.seed]
    return [
        replace(
            best_run,
            kind="replicate",
            name=f"{100 * part:g} % of train, {best_run.name}",
            seed=seed,
            folder=study.folder.fraction(best_run.number, part, seed),
            notes=(f"trained on {100 * part:g} % of the training speech, under the whole budget",),
            portion=DataSelection(fraction=part, seed=plan.seed),
        )
        for part in parts
        for seed in seeds
    ]


def refit(plan: Plan, study: Study) -> list[Run]:
    """The run of `--refit`: the winner's settings, seed and budget, on train and validation together."""
    best_run = _winner(study)
    if not plan.search_options.refit or best_run is None or best_run.number is None:
        return []
    note = "trained on train and validation: nothing was left to validate it on, so it has no WER but that on test"
    folder = study.folder.refit(best_run.number, best_run.seed)
    name, portion = f"refit of {best_run.name}", DataSelection(with_validation=True)
    return [replace(best_run, kind="replicate", name=name, folder=folder, notes=(note,), portion=portion)]


def _winner(study: Study) -> Run | None:
    """The trial with the lowest validation WER."""
    number = best_trial(study)
    return None if number is None else Run.of(study.folder.trial(number), read_record(study.folder.trial(number)))
