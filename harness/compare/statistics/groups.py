"""Compute rates by condition, speaker, dataset and duration, and the worst group."""

import numpy as np

from harness.compare.scoring.systems import System
from harness.compare.scoring.test_set import TestSet
from harness.compare.statistics.comparisons import PairwiseTests
from harness.compare.statistics.tests import jackknife_t
from harness.spec.base import Spec

DURATIONS = ((2.0, "under 2 s"), (5.0, "2 to 5 s"), (10.0, "5 to 10 s"), (30.0, "10 to 30 s"))


class GroupRow(Spec):
    """One system on one group of utterances; the interval is null below 5 blocks."""

    grouping: str
    group: str
    system: str
    utterances: int
    reference_words: int
    rate: float | None
    ci_low: float | None
    ci_high: float | None


def groupings(test: TestSet) -> dict[str, list[str]]:
    """Return the label of every utterance under each grouping with at least two groups."""
    found = {
        "condition": [name or "(none)" for name in test.conditions],
        "dataset": [name or "(none)" for name in test.datasets],
        "duration": [_duration(seconds) for seconds in test.seconds],
        "speaker": [name or "(none)" for name in test.speakers],
    }
    return {kind: labels for kind, labels in found.items() if len(set(labels)) > 1}


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return next((name for limit, name in DURATIONS if seconds < limit), "30 s and more")


def group_rows(systems: list[System], test: TestSet, judge: PairwiseTests) -> list[GroupRow]:
    """Return the rates of every system on every group."""
    order = [name for _, name in DURATIONS]
    rows = []
    for kind, labels in groupings(test).items():
        names = np.array(labels)
        groups = sorted(set(labels), key=lambda name: (order.index(name) if name in order else len(order), name))
        for group in groups:
            rows += [_row(kind, group, names == group, system, judge) for system in systems]
    return rows


def _row(
    kind: str, group: str, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]", system: System, judge: PairwiseTests
) -> GroupRow:
    errors, length = system.errors(judge.metric)[chosen], system.length(judge.metric)[chosen]
    _, labels = np.unique(judge.blocks.labels[chosen], return_inverse=True)
    words = np.bincount(labels, weights=length).astype(np.float64)
    summed = np.bincount(labels, weights=errors).astype(np.float64)
    found = jackknife_t(summed, words) if length.sum() else None
    return GroupRow(
        grouping=kind,
        group=group,
        system=system.name,
        utterances=int(chosen.sum()),
        reference_words=int(system.length("wer")[chosen].sum()),
        rate=found.estimate if found else None,
        ci_low=found.low if found else None,
        ci_high=found.high if found else None,
    )


def worst_groups(rows: list[GroupRow]) -> dict[str, GroupRow]:
    """Return the worst group of each system under the first grouping."""
    if not rows:
        return {}
    worst: dict[str, GroupRow] = {}
    for row in rows:
        if row.grouping != rows[0].grouping or row.rate is None:
            continue
        held = worst.get(row.system)
        if held is None or held.rate is None or row.rate > held.rate:
            worst[row.system] = row
    return worst
