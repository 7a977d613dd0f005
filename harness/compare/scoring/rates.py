"""Rates of one system from its counts per utterance: all pooled over the corpus, averaged over seeds, fractions."""

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.compare.scoring.systems import Metric, System
from harness.compare.scoring.test_set import TestSet


def measures(system: System, test: TestSet) -> dict[str, float | None]:
    """Every rate of the board that is a system's own.

    MER = (S+D+I)/(H+S+D+I) and WIL = 1 - H^2 / (N P), with H words right, N reference and P hypothesis words
    (Morris, Maier & Green 2004).

    Raises:
        ValueError: if there is no reference word at all.
    """
    words = system.length("wer")
    total = float(words.sum())
    if total == 0:
        raise ValueError("no reference words to score against")
    substitutions, deletions, insertions = (
        float(system.mean(lambda counts, field=field: getattr(counts.words, field)).sum())  # type: ignore[misc]
        for field in ("substitutions", "deletions", "insertions")
    )
    errors = substitutions + deletions + insertions
    hits = total - substitutions - deletions
    said = float(system.mean(lambda counts: counts.words.hypothesis).sum())
    over = system.mean(lambda counts: counts.words.errors > counts.words.reference)
    wrong = system.mean(lambda counts: counts.words.errors > 0)
    return {
        "wer": errors / total,
        "wer_raw": _rate(system, "wer_raw"),
        "cer": _rate(system, "cer"),
        "insertions": insertions / total,
        "deletions": deletions / total,
        "substitutions": substitutions / total,
        "sentence_error_rate": float(wrong.mean()),
        "mer": errors / (hits + errors),
        "wil": 1 - hits * hits / (total * said) if said else 1.0,
        "loop_rate": float(system.mean(lambda counts: counts.loops).mean()),
        "over_100_rate": float(over.mean()),
        "insertions_per_silent_hour": _in_silence(system, test, words),
        "wer_macro": macro_average(system, test, "wer"),
    }


def _rate(system: System, metric: Metric) -> float | None:
    length = float(system.length(metric).sum())
    return float(system.errors(metric).sum()) / length if length else None


def _in_silence(system: System, test: TestSet, words: npt.NDArray[np.float64]) -> float | None:
    """Words inserted per hour of clips in which nothing was said; None without such clips of known length."""
    silent = [row for row in np.flatnonzero(words == 0) if test.seconds[row] is not None]
    hours = sum(test.seconds[row] or 0.0 for row in silent) / 3600
    inserted = system.mean(lambda counts: counts.words.insertions)
    return float(inserted[silent].sum()) / hours if hours else None


def macro_average(system: System, test: TestSet, metric: Metric) -> float | None:
    """The mean of the datasets' pooled rates, each dataset counting the same; None with fewer than two."""
    names = sorted({name for name in test.datasets if name is not None})
    if len(names) < 2:
        return None
    labels = np.array([name or "" for name in test.datasets])
    errors, length = system.errors(metric), system.length(metric)
    rates = [errors[labels == name].sum() / n for name in names if (n := length[labels == name].sum()) > 0]
    return float(np.mean(rates))


def cost_of(system: System, field: str) -> Any:
    """A figure of the record's cost, or None."""
    return getattr(system.record.cost, field, None) if system.record and system.record.cost else None
