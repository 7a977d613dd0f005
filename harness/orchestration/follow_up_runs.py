"""Plan the runs after a search: replicates, training on fractions of the data, and the refit."""

from dataclasses import replace

from harness.orchestration.confirmation import fresh_seeds, replicates
from harness.plan import Plan
from harness.records.study_folder import Run, read_record
from harness.search.best_trials import best_trial
from harness.search.study import Study
from harness.spec.data_selection import DataSelection


def followups(plan: Plan, study: Study, baselines: list[Run]) -> list[Run]:
    """Return every follow-up run: replicates, data fractions, refit."""
    return [*replicates(plan, study, baselines), *data_fractions(plan, study), *refit(plan, study)]


def data_fractions(plan: Plan, study: Study) -> list[Run]:
    """Return the runs of `--data-fractions`: the best trial's configuration and budget on nested parts of train.

    The whole of train is not repeated. With `--confirm` the runs have the seeds of the replicates, else the best
    trial's.
    """
    best_run, parts = _best_run(study), [part for part in plan.search_options.data_fractions if part < 1]
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
    """Return the run of `--refit`: the best trial's configuration, seed and budget on train and validation together."""
    best_run = _best_run(study)
    if not plan.search_options.refit or best_run is None or best_run.number is None:
        return []
    note = "trained on train and validation, so it has a WER on test only"
    folder = study.folder.refit(best_run.number, best_run.seed)
    name, portion = f"refit of {best_run.name}", DataSelection(with_validation=True)
    return [replace(best_run, kind="replicate", name=name, folder=folder, notes=(note,), portion=portion)]


def _best_run(study: Study) -> Run | None:
    """Return the trial with the lowest validation WER."""
    number = best_trial(study)
    return None if number is None else Run.of(study.folder.trial(number), read_record(study.folder.trial(number)))
