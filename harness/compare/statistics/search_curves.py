"""What a study's trials tell of the search: learning curves, the budget curve, and which settings matter."""

import warnings
from collections.abc import Sequence
from typing import Any

from harness.compare.scoring.systems import Records
from harness.spec.base import Spec

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
    """The expected best validation WER of n random trials, with an 80 % band of the average curve where it exists."""

    study: str
    trials: int
    expected_best: float
    band_low: float | None
    band_high: float | None


class Importance(Spec):
    """The share of the variation in validation WER that a setting explains."""

    study: str
    setting: str
    importance: float
    method: str
    trials: int


def learning_curves(study: str, records: Records) -> list[CurvePoint]:
    """Every trial's validation WER at every rung that it reached."""
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
        for _, record in records
        if record.kind == "trial" and record.number is not None
        for rung in record.rungs
    ]


def random_values(records: Records, sampler: dict[str, Any]) -> list[float]:
    """Validation WER of the trials that were drawn at random: all of a random search, the start-up trials of TPE.

    Only these are i.i.d., as a budget curve needs them. A pruned trial counts with the WER at which it was stopped.
    """
    limit = None if sampler["name"] == "random" else sampler.get("n_startup_trials", 0)
    return [
        record.scores.wer
        for _, record in records
        if record.kind == "trial" and record.scores and (limit is None or (record.number or 0) < limit)
    ]


def budget_curve(study: str, values: Sequence[float]) -> list[BudgetPoint]:
    """E[best of n] for n = 1 .. N of N random trials, with opda's 80 % band; empty below four trials.

    The estimate is the U-statistic sum_i C(i-1, n-1) / C(N, n) v_(i) over values sorted from worst to best. The band
    (Lourie, Cho & He 2024) supposes that no WER lies above 100 % or the worst that was seen.
    """
    if len(values) < FEW:
        return []
    from opda.nonparametric import EmpiricalDistribution

    counts = list(range(1, len(values) + 1))
    estimate = EmpiricalDistribution(values).u_tuning_curve(counts, minimize=True)
    lows, highs = [None] * len(values), [None] * len(values)
    if len(values) <= BAND_TRIALS:
        lower, _, upper = EmpiricalDistribution.confidence_bands(
            values, BAND, a=0.0, b=max(1.0, *values), method="ld_equal_tailed"
        )
        # The upper band of the distribution puts more weight on low WER: it is the lower band of the best.
        lows, highs = (band.average_tuning_curve(counts, minimize=True).tolist() for band in (upper, lower))
    return [
        BudgetPoint(study=study, trials=n, expected_best=float(best), band_low=low, band_high=high)
        for n, best, low, high in zip(counts, estimate, lows, highs, strict=True)
    ]


def importances(study: str, records: Records, sampled: dict[str, Any]) -> list[Importance]:
    """Optuna's fANOVA, and PED-ANOVA where there are many trials; empty where there are too few.

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
    """Optuna's distribution of a setting; one by choices holds them as text, for a list cannot be a category."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if held.get("choices"):
        return CategoricalDistribution(sorted({str(value) for value in seen}))
    low, high = min(held["low"], *seen), max(held["high"], *seen)
    return FloatDistribution(low, high, log=bool(held.get("log")))
