"""Compare pairs of systems: differences with intervals, tests, Holm adjustment within a family, and claims."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np

from harness.compare.scoring.alignment import segment_differences
from harness.compare.scoring.systems import Metric, System
from harness.compare.statistics import tests as statistics
from harness.compare.statistics.tests import ALPHA, Blocks, Interval, Mapsswe
from harness.spec.base import Spec

Verdict = Literal[
    "better",
    "worse",
    "better on this test set only",
    "worse on this test set only",
    "no difference shown",
    "no inference",
    "no claim: seeds failed",
]


class Comparison(Spec):
    """A system against a reference. Differences are fractions, negative if it is better; null: no inference."""

    system: str
    reference: str
    difference: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_holm: float | None
    family: int
    bootstrap_low: float | None
    bootstrap_high: float | None
    probability_of_improvement: float | None
    seed_difference: float | None
    seed_low: float | None
    seed_high: float | None
    seed_p: float | None
    seed_pairs: int
    mapsswe_segments: int | None
    mapsswe_mean: float | None
    mapsswe_sd: float | None
    mapsswe_z: float | None
    mapsswe_p: float | None
    verdict: Verdict


def reversed_comparison(c: Comparison) -> Comparison:
    """Return the comparison with system and reference exchanged."""

    def minus(value: float | None) -> float | None:
        return None if value is None else 0.0 - value

    opposite = {"better": "worse", "worse": "better"}
    first, _, rest = c.verdict.partition(" ")
    return Comparison.model_validate(
        {
            **c.model_dump(),
            "system": c.reference,
            "reference": c.system,
            "difference": minus(c.difference),
            "ci_low": minus(c.ci_high),
            "ci_high": minus(c.ci_low),
            "bootstrap_low": minus(c.bootstrap_high),
            "bootstrap_high": minus(c.bootstrap_low),
            "probability_of_improvement": None
            if c.probability_of_improvement is None
            else 1 - c.probability_of_improvement,
            "seed_difference": minus(c.seed_difference),
            "seed_low": minus(c.seed_high),
            "seed_high": minus(c.seed_low),
            "mapsswe_mean": minus(c.mapsswe_mean),
            "mapsswe_z": minus(c.mapsswe_z),
            "verdict": f"{opposite.get(first, first)} {rest}".strip(),
        }
    )


@dataclass(frozen=True)
class PairwiseTests:
    """Compute the comparisons of a leaderboard, which share a metric and blocks."""

    metric: Metric
    blocks: Blocks
    _held: dict[tuple[str, str], Comparison] = field(default_factory=dict)  # a pair seen from one side is turned

    def interval(self, system: System) -> Interval:
        """Return a system's rate with its interval."""
        return statistics.jackknife_t(
            self.blocks.sums(system.errors(self.metric)), self.blocks.sums(system.length(self.metric))
        )

    def family(self, systems: list[System], reference: System) -> list[Comparison]:
        """Compare all other systems with a reference, as one Holm family."""
        return self.adjusted([(system, reference) for system in systems if system is not reference])

    def pairs(self, systems: list[System]) -> list[Comparison]:
        """Compare every pair once, in the given order, as one family; for comparisons without a reference."""
        return self.adjusted(list(combinations(systems, 2)))

    def adjusted(self, pairs: list[tuple[System, System]]) -> list[Comparison]:
        """Compare pairs that form one Holm family."""
        raw = [self.difference(a, b) for a, b in pairs]
        return [
            self._comparison(a, b, found, p, len(pairs))
            for (a, b), found, p in zip(pairs, raw, statistics.holm([found.p for found in raw]), strict=True)
        ]

    def difference(self, a: System, b: System) -> Interval:
        """Return the rate of a minus that of b, with interval and unadjusted p."""
        errors = self.blocks.sums(a.errors(self.metric) - b.errors(self.metric))
        return statistics.jackknife_t(errors, self.blocks.sums(a.length(self.metric)))

    def _comparison(self, a: System, b: System, found: Interval, p_holm: float | None, family: int) -> Comparison:
        """Return a comparison; what does not depend on the family is computed once for both directions."""
        if (b.name, a.name) in self._held:
            seen = reversed_comparison(self._held[b.name, a.name])
            over_seeds = statistics.paired_t(seed_differences(a, b, self.metric))
            said = verdict(found, p_holm, over_seeds, a.failed_seeds, b.failed_seeds)
            return seen.model_copy(update={"p_holm": p_holm, "family": family, "verdict": said})
        self._held[a.name, b.name] = self._worked_out(a, b, found, p_holm, family)
        return self._held[a.name, b.name]

    def _worked_out(self, a: System, b: System, found: Interval, p_holm: float | None, family: int) -> Comparison:
        sums: Callable[[System], statistics.Floats] = lambda s: self.blocks.sums(s.errors(self.metric))  # noqa: E731
        bootstrap = statistics.block_bootstrap(sums(a), sums(b), self.blocks.sums(a.length(self.metric)))
        seeds = seed_differences(a, b, self.metric)
        over_seeds = statistics.paired_t(seeds)
        pair = matched_pairs(a, b, self.metric)
        return Comparison(
            system=a.name,
            reference=b.name,
            difference=found.estimate,
            ci_low=found.low,
            ci_high=found.high,
            p=found.p,
            p_holm=p_holm,
            family=family,
            bootstrap_low=bootstrap.low if bootstrap else None,
            bootstrap_high=bootstrap.high if bootstrap else None,
            probability_of_improvement=bootstrap.improvement if bootstrap else None,
            seed_difference=over_seeds.estimate if over_seeds else None,
            seed_low=over_seeds.low if over_seeds else None,
            seed_high=over_seeds.high if over_seeds else None,
            seed_p=over_seeds.p if over_seeds else None,
            seed_pairs=len(seeds),
            mapsswe_segments=pair.segments if pair else None,
            mapsswe_mean=pair.mean if pair else None,
            mapsswe_sd=pair.sd if pair else None,
            mapsswe_z=pair.z if pair else None,
            mapsswe_p=pair.p if pair else None,
            verdict=verdict(found, p_holm, over_seeds, a.failed_seeds, b.failed_seeds),
        )


def seed_differences(a: System, b: System, metric: Metric) -> list[float]:
    """Return differences of rates of runs with equal seeds; an untrained system is the same for every seed."""
    if "external" in (a.kind, b.kind) or (a.deterministic and b.deterministic):
        return []
    rates_a, rates_b = a.rates(metric), b.rates(metric)
    if a.deterministic or b.deterministic:
        fixed = next(iter((rates_a if a.deterministic else rates_b).values()))
        return [fixed - rate for rate in rates_b.values()] if a.deterministic else [r - fixed for r in rates_a.values()]
    return [rates_a[seed] - rates_b[seed] for seed in rates_a if seed in rates_b]


def matched_pairs(a: System, b: System, metric: Metric) -> Mapsswe | None:
    """Return MAPSSWE of the first runs; None for characters, because it tests words."""
    if metric == "cer":
        return None
    first, second = ((s.runs[0].counts.words if metric == "wer" else s.runs[0].counts.raw) for s in (a, b))
    differences = segment_differences(first.reference, (first.places, first.wrong), (second.places, second.wrong))
    return statistics.mapsswe(differences)


def verdict(
    test_set: Interval, p_holm: float | None, seeds: Interval | None, failed: int = 0, reference_failed: int = 0
) -> Verdict:
    """Return the claim that a comparison supports.

    A difference must survive Holm's adjustment, and its interval exclude 0. Where the paired seeds exclude 0 too and
    agree in direction it is a claim about the methods; without enough seeds, about this test set only; and where
    there are seeds that do not exclude 0, none at all. A system of which seeds failed is not claimed to be better: its
    rate is the mean of those that survived.

    Args:
        test_set: Difference on the test set, below 0 where the system is better.
        p_holm: Its p after Holm's adjustment; None if it was not tested.
        seeds: Mean difference over paired seeds; None with too few.
        failed: Seeds of the system that failed.
        reference_failed: Seeds of the reference that failed.
    """
    if test_set.low is None or p_holm is None:
        return "no inference"
    if p_holm >= ALPHA or not test_set.excludes_zero:
        return "no difference shown"
    better = test_set.estimate < 0
    if failed if better else reference_failed:
        return "no claim: seeds failed"
    if seeds is None or seeds.low is None:
        return "better on this test set only" if better else "worse on this test set only"
    if seeds.excludes_zero and np.sign(seeds.estimate) == np.sign(test_set.estimate):
        return "better" if better else "worse"
    return "no difference shown"
