"""Compute the rates of one system from its counts per utterance.

All rates are fractions, pooled over the corpus and averaged over seeds.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.compare.scoring.systems import Metric, System
from harness.compare.scoring.test_set import TestSet


def system_rates(system: System, test: TestSet) -> dict[str, float | None]:
    """Compute all rates of a system that need no other system.

    MER = (S+D+I)/(H+S+D+I) and WIL = 1 - H^2 / (N P), with H correct words, N reference and P hypothesis words
    (Morris, Maier & Green 2004).

    Returns:
        Rates by the names of the fields of `tables.rows.Row`; None where a rate is not defined.

    Raises:
        ValueError: There are no reference words.
    """
    words = system.length("wer")
    total = float(words.sum())
    if total == 0:
        raise ValueError("no reference words to score against")
    substitutions, deletions, insertions = (
        float(system.mean_over_seeds(lambda counts, field=field: getattr(counts.words, field)).sum())  # type: ignore[misc]
        for field in ("substitutions", "deletions", "insertions")
    )
    errors = substitutions + deletions + insertions
    hits = total - substitutions - deletions
    hypothesis_words = float(system.mean_over_seeds(lambda counts: counts.words.hypothesis).sum())
    over = system.mean_over_seeds(lambda counts: counts.words.errors > counts.words.reference)
    wrong = system.mean_over_seeds(lambda counts: counts.words.errors > 0)
    return {
        "wer": errors / total,
        "wer_raw": _rate(system, "wer_raw"),
        "cer": _rate(system, "cer"),
        "insertions": insertions / total,
        "deletions": deletions / total,
        "substitutions": substitutions / total,
        "sentence_error_rate": float(wrong.mean()),
        "mer": errors / (hits + errors),
        "wil": 1 - hits * hits / (total * hypothesis_words) if hypothesis_words else 1.0,
        "loop_rate": float(system.mean_over_seeds(lambda counts: counts.loops).mean()),
        "over_100_rate": float(over.mean()),
        "insertions_per_silent_hour": _insertions_per_silent_hour(system, test, words),
        "wer_macro": macro_average(system, test, "wer"),
    }


def _rate(system: System, metric: Metric) -> float | None:
    length = float(system.length(metric).sum())
    return float(system.errors(metric).sum()) / length if length else None


def _insertions_per_silent_hour(system: System, test: TestSet, words: npt.NDArray[np.float64]) -> float | None:
    """Return inserted words per hour of clips with an empty reference; None without such clips of known length."""
    silent = [row for row in np.flatnonzero(words == 0) if test.seconds[row] is not None]
    hours = sum(test.seconds[row] or 0.0 for row in silent) / 3600
    inserted = system.mean_over_seeds(lambda counts: counts.words.insertions)
    return float(inserted[silent].sum()) / hours if hours else None


def macro_average(system: System, test: TestSet, metric: Metric) -> float | None:
    """Return the unweighted mean of the datasets' pooled rates; None with fewer than two datasets."""
    names = sorted({name for name in test.datasets if name is not None})
    if len(names) < 2:
        return None
    labels = np.array([name or "" for name in test.datasets])
    errors, length = system.errors(metric), system.length(metric)
    rates = [errors[labels == name].sum() / n for name in names if (n := length[labels == name].sum()) > 0]
    return float(np.mean(rates))


def cost_field(system: System, field: str) -> Any:
    """Return a field of the record's cost; None if it was not measured."""
    return getattr(system.record.cost, field, None) if system.record and system.record.cost else None
