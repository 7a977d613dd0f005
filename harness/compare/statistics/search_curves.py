"""Compute learning curves, the budget curve and the importance of settings from a study's trials."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from harness.compare.scoring.systems import Records
from harness.records.study_folder import without_attempts
from harness.spec.base import Spec
from harness.spec.result import Record

FEW = 4  # trials below which importances and budget curves say nothing
BAND = 0.8
BAND_TRIALS = 60  # trials above which the band takes seconds
MANY = 200  # completed trials above which fANOVA takes too long


class CurvePoint(Spec):
    """One trial at one rung."""

    study: str
    trial: int
    state: str
    rung: int
    step: int
    examples: int
    wer: float | None
    loss: float
    train_seconds: float


class BudgetPoint(Spec):
    """The expected best validation WER of n random trials, with an 80 % band of the average curve where it exists.

    `unfinished` of the trials were pruned, infeasible or diverged, and are assumed to be worse than all others.
    """

    study: str
    trials: int
    expected_best: float
    band_low: float | None
    band_high: float | None
    unfinished: int


class Importance(Spec):
    """The share of the variation in validation WER that a setting explains."""

    study: str
    setting: str
    importance: float
    method: str
    trials: int


def learning_curves(study: str, records: Records) -> list[CurvePoint]:
    """Return the validation WER of every trial at every rung it reached, without interrupted attempts."""
    return [
        CurvePoint(
            study=study,
            trial=record.number,
            state=record.state,
            rung=rung.index,
            step=rung.step,
            examples=rung.examples,
            wer=rung.scores.wer if rung.scores else None,
            loss=rung.loss,
            train_seconds=rung.train_seconds,
        )
        for _, record in without_attempts(records)
        if record.kind == "trial" and record.number is not None
        for rung in record.rungs
    ]


def random_draws(records: Records, sampler: dict[str, Any]) -> tuple[list[float], int]:
    """Return the results of the trials whose configurations were drawn at random, independently of each other.

    Warm starts, points of a grid and what a sampler's model proposed are no independent draws. An interrupted attempt
    is none either; its retry is.

    Args:
        records: The records of a study.
        sampler: The study's sampler. Records of version 0.2 do not say how a configuration was chosen: then all trials
            of a random search and the first `n_startup_trials` of tpe, gp, cmaes and nsga2 count as random.

    Returns:
        The validation WER of the draws that were evaluated in full, and the number of draws without such a result:
        pruned, infeasible or diverged.
    """
    startup = {"random": sys.maxsize, "grid": 0}.get(sampler["name"], sampler.get("n_startup_trials", 0))
    drawn = [
        record
        for _, record in records
        if record.kind == "trial" and (record.proposed_by or _guess(record, startup)) == "random"
    ]
    values = [record.scores.wer for record in drawn if record.state == "complete" and record.scores]
    return values, sum(r.state == "pruned" or (r.reason or "").startswith("diverged") for r in drawn)


def _guess(record: Record, startup: int) -> str:
    return "random" if (record.number or 0) < startup else "sampler"


def budget_curve(study: str, values: Sequence[float], unfinished: int = 0) -> list[BudgetPoint]:
    """Return the expected best of n of N random draws, with opda's 80 % band; empty if fewer than 4 have a value.

    The estimate is the U-statistic sum_i C(i-1, n-1) / C(N, n) v_(i) over values sorted from worst to best. Draws
    without a value are assumed to be worse than all others; the curve then begins where their weights are zero
    (n > `unfinished`), and has no band. The band (Lourie, Cho & He 2024) assumes that no WER lies above 100 % or the
    worst that was seen.

    Args:
        study: Name of the study.
        values: Validation WER of the draws that were evaluated in full.
        unfinished: Number of draws that were pruned, infeasible or diverged.
    """
    if len(values) < FEW:
        return []
    from opda.nonparametric import EmpiricalDistribution

    counts = list(range(unfinished + 1, unfinished + len(values) + 1))
    ranked = [*values, *[max(values)] * unfinished]
    estimate = EmpiricalDistribution(ranked).u_tuning_curve(counts, minimize=True)
    lows, highs = [None] * len(values), [None] * len(values)
    if not unfinished and len(values) <= BAND_TRIALS:
        lower, _, upper = EmpiricalDistribution.confidence_bands(
            values, BAND, a=0.0, b=max(1.0, *values), method="ld_equal_tailed"
        )
        # The upper band of the distribution puts more weight on low WER: it is the lower band of the best.
        lows, highs = (band.average_tuning_curve(counts, minimize=True).tolist() for band in (upper, lower))
    return [
        BudgetPoint(
            study=study, trials=n, expected_best=float(best), band_low=low, band_high=high, unfinished=unfinished
        )
        for n, best, low, high in zip(counts, estimate, lows, highs, strict=True)
    ]


def importances(study: str, records: Records, sampled: dict[str, Any]) -> list[Importance]:
    """Return the importances by Optuna's fANOVA, or PED-ANOVA with many trials; empty with too few.

    The study is built anew in memory from the records, so that results can be moved and no database is touched.
    """
    trials = [r for _, r in records if r.kind == "trial" and r.state == "complete" and r.scores]
    settings = [record.config.settings() for record in trials]
    shared = [name for name in sampled if all(name in held for held in settings)]
    varied = [name for name in shared if len({str(held[name]) for held in settings}) > 1]
    if len(trials) < FEW or len(varied) < 2:
        return []
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(sampled[name], [held[name] for held in settings]) for name in varied}
    rebuilt = optuna.create_study()
    for record, held in zip(trials, settings, strict=True):
        params = {name: str(held[name]) if sampled[name].get("choices") else float(held[name]) for name in varied}
        value = record.scores.wer if record.scores else None
        rebuilt.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    many = len(trials) > MANY
    evaluator: optuna.importance.BaseImportanceEvaluator = (
        optuna.importance.PedAnovaImportanceEvaluator() if many else optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PED-ANOVA is marked experimental
        found = optuna.importance.get_param_importances(rebuilt, evaluator=evaluator)
    method = "PED-ANOVA" if many else "fANOVA"
    return [
        Importance(study=study, setting=name, importance=share, method=method, trials=len(trials))
        for name, share in found.items()
    ]


def _distribution(held: dict[str, Any], seen: list[Any]) -> Any:
    """Return Optuna's distribution of a setting; choices are texts, because a list cannot be a category."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if held.get("choices"):
        return CategoricalDistribution(sorted({str(value) for value in seen}))
    low, high = min(held["low"], *seen), max(held["high"], *seen)
    return FloatDistribution(low, high, log=bool(held.get("log")))
