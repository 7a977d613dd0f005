"""Compute the data curve: the rate of the best trial's configuration by hours of training speech."""

from collections.abc import Sequence

from harness.compare.scoring.systems import Metric, System
from harness.compare.statistics.comparisons import PairwiseTests
from harness.spec.base import Spec

FRACTION_FIELDS = ["system", "part of train", "hours", "seeds", "rate %", "95 % interval", "validation WER %"]


class DataPoint(Spec):
    """One point: a configuration trained on a part of train. The rate is a fraction, with its jackknife-t interval."""

    study: str
    system: str
    fraction: float
    hours: float | None
    seeds: int
    metric: Metric
    rate: float
    ci_low: float | None
    ci_high: float | None
    wer_validation: float | None


def data_curve(systems: Sequence[System], parts: Sequence[System], judge: PairwiseTests) -> list[DataPoint]:
    """Return the points by ascending part; the last is the trial on the leaderboard, trained on all of train."""
    whole = {(s.study, s.record.number): s for s in systems if s.record and s.record.kind == "trial"}
    chosen = list(parts)
    for part in parts:
        assert part.record is not None
        end = whole.get((part.study, part.record.number))
        if end is not None and end not in chosen:
            chosen.append(end)
    points = [_point(system, judge) for system in chosen]
    return sorted(points, key=lambda point: (point.study, point.fraction))


def _point(system: System, judge: PairwiseTests) -> DataPoint:
    record, interval = system.record, judge.interval(system)
    assert record is not None
    seconds = record.cost.data_seconds if record.cost else None
    return DataPoint(
        study=system.study or "",
        system=system.name,
        fraction=record.portion.fraction,
        hours=None if seconds is None else seconds / 3600,
        seeds=len(system.runs),
        metric=judge.metric,
        rate=float(system.errors(judge.metric).sum() / system.length(judge.metric).sum()),
        ci_low=interval.low,
        ci_high=interval.high,
        wer_validation=system.validation_wer,
    )
