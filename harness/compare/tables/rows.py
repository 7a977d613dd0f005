"""Make the rows of the leaderboard from systems and their comparisons, best first."""

import statistics
from collections.abc import Sequence
from typing import Any

from harness.compare.scoring.rates import cost_field, system_rates
from harness.compare.scoring.systems import Metric, Records, System
from harness.compare.scoring.test_set import TestSet
from harness.compare.statistics.comparisons import Comparison, PairwiseTests, Verdict, reversed_comparison
from harness.compare.statistics.groups import GroupRow
from harness.compare.statistics.tests import ALPHA
from harness.compare.tables.pareto import pareto_front
from harness.records.study_folder import without_attempts
from harness.spec.base import Spec
from harness.spec.result import Kind

COSTS = (
    "trainable_parameters",
    "total_parameters",
    "adapter_bytes",
    "peak_memory_bytes",
    "train_seconds",
    "matmul_share",
    "steps",
)


class Row(Spec):
    """One system. Rates are fractions; null: does not apply or was not measured."""

    rank: int
    system: str
    kind: Kind
    metric: Metric
    wer: float
    ci_low: float | None
    ci_high: float | None
    seeds: int
    failed_seeds: int
    seed_sd: float | None
    wer_raw: float | None
    cer: float | None
    insertions: float
    deletions: float
    substitutions: float
    sentence_error_rate: float
    mer: float
    wil: float
    loop_rate: float
    over_100_rate: float
    insertions_per_silent_hour: float | None
    wer_macro: float | None
    wer_unmarked: float | None
    reference: str | None
    werr: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_holm: float | None
    mapsswe_p: float | None
    verdict: Verdict | None
    tied_with_best: bool | None
    wer_validation: float | None
    gap: float | None
    second_task: str | None = None
    wer_second: float | None = None
    forgotten: float | None = None
    worst_group: str | None
    worst_group_rate: float | None
    trainable_parameters: int | None
    total_parameters: int | None
    adapter_bytes: int | None
    peak_memory_bytes: int | None
    train_seconds: float | None
    matmul_share: float | None
    tuning_seconds: float | None
    tuning_trials: int | None
    rtfx: float | None
    latency_seconds: float | None
    steps: int | None
    pareto: bool | None
    seed: int | None
    normalizer: str
    decoding: str
    commit: str | None
    study: str | None
    notes: str

    @property
    def rate(self) -> float:
        """Value of the ranking metric."""
        value: float | None = getattr(self, self.metric)
        return value if value is not None else float("inf")


def leaderboard_rows(
    systems: list[System],
    test: TestSet,
    judge: PairwiseTests,
    comparisons: list[Comparison],
    *,
    reference: str | None,
    best: str | None,
    normalizer: str,
    worst: dict[str, GroupRow],
    unmarked: dict[str, float],
) -> list[Row]:
    """Return the rows ranked by the metric, and by name if equal.

    Args:
        systems: all of them.
        test: what they transcribed.
        judge: metric and blocks.
        comparisons: all families.
        reference: the system that differences and WERR are relative to.
        best: the system that the others may be tied with.
        normalizer: name and version.
        worst: each system's worst group.
        unmarked: each system's WER without marks (tashkeel), where that is asked for.
    """
    against = {c.reference: reversed_comparison(c) for c in comparisons if c.system == reference}
    against |= {c.system: c for c in comparisons if c.reference == reference}
    ties = _ties(systems, comparisons, best)
    base = next((s for s in systems if s.name == reference), None)
    rates = {s.name: system_rates(s, test) for s in systems}
    order = sorted(systems, key=lambda s: (_value(rates[s.name][judge.metric]), s.name))
    front = pareto_front(
        [{"rate": rates[s.name][judge.metric], **{field: cost_field(s, field) for field in COSTS}} for s in order]
    )
    rows = []
    for place, (system, on_front) in enumerate(zip(order, front, strict=True), start=1):
        found, own, compared = rates[system.name], judge.interval(system), against.get(system.name)
        base_rate = rates[base.name][judge.metric] if base else None
        rate, validation = found[judge.metric], system.validation_wer
        seeds = list(system.rates(judge.metric).values())
        bad = worst.get(system.name)
        seconds, trials = system.tuning or (None, None)
        rows.append(
            Row.model_validate(
                {
                    **found,
                    **{field: cost_field(system, field) for field in COSTS},
                    "rank": place,
                    "system": system.name,
                    "kind": system.kind,
                    "metric": judge.metric,
                    "ci_low": own.low,
                    "ci_high": own.high,
                    "seeds": len(system.runs),
                    "failed_seeds": system.failed_seeds,
                    "seed_sd": statistics.stdev(seeds) if len(seeds) > 1 else None,
                    "wer_unmarked": unmarked.get(system.name),
                    "reference": reference,
                    "werr": (base_rate - rate) / base_rate if compared and base_rate and rate is not None else None,
                    "difference": compared.difference if compared else None,
                    "difference_low": compared.ci_low if compared else None,
                    "difference_high": compared.ci_high if compared else None,
                    "p_holm": compared.p_holm if compared else None,
                    "mapsswe_p": compared.mapsswe_p if compared else None,
                    "verdict": compared.verdict if compared else None,
                    "tied_with_best": ties.get(system.name),
                    "wer_validation": validation,
                    "gap": None if validation is None or found["wer"] is None else found["wer"] - validation,
                    "worst_group": bad.group if bad else None,
                    "worst_group_rate": bad.rate if bad else None,
                    "tuning_seconds": seconds,
                    "tuning_trials": trials,
                    "rtfx": system.rtfx,
                    "latency_seconds": system.latency_seconds,
                    "pareto": on_front,
                    "seed": system.record.seed if system.record else None,
                    "normalizer": normalizer,
                    "decoding": described(system.decoding),
                    "commit": system.record.environment.get("commit") if system.record else None,
                    "study": system.study,
                    "notes": "; ".join(system.notes),
                }
            )
        )
    return rows


def _value(rate: float | None) -> float:
    return float("inf") if rate is None else rate


def cost_front(rows: Sequence[Row], field: str) -> list[bool | None]:
    """Return whether each row is on the Pareto front of its rate and one cost; None without that cost.

    Args:
        rows: Rows of a leaderboard.
        field: Cost, a field of Row; more is better for `rtfx` alone.
    """
    points = [{"rate": row.rate, field: getattr(row, field)} for row in rows]
    return pareto_front(points, {"rate": "lower", field: "higher" if field == "rtfx" else "lower"})


def _ties(systems: list[System], comparisons: list[Comparison], best: str | None) -> dict[str, bool | None]:
    """Return whether each system is tied with the best: Holm p of .05 or more; None: no inference."""
    if best is None:
        return {}
    found: dict[str, bool | None] = {s.name: None for s in systems}
    for c in comparisons:
        if best in (c.system, c.reference):
            other = c.system if c.reference == best else c.reference
            if c.reference == best or found[other] is None:
                found[other] = None if c.ci_low is None or c.p_holm is None else c.p_holm >= ALPHA
    found[best] = True
    return found


def described(decoding: dict[str, Any] | None) -> str:
    """Describe how transcripts were decoded."""
    if decoding is None:
        return "not known"
    limit = decoding.get("max_new_tokens")
    return f"{decoding.get('strategy', 'not known')}" + (f", at most {limit} tokens" if limit else "")


def trial_counts(records: Records) -> dict[str, int]:
    """Count the trials of a study by state: {"complete": 5, "pruned": 3}."""
    states = [record.state for _, record in without_attempts(records) if record.kind == "trial"]
    return {state: states.count(state) for state in ("complete", "pruned", "fail") if state in states}
