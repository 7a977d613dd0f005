"""Rules of our own that stop a trial: a signed-rank test on utterances, and dominance under several objectives."""

from collections.abc import Sequence

import numpy as np

from harness.search.constraints import measured
from harness.spec.limits import Objective
from harness.spec.result import Record, Rung

FEWEST = 6  # utterances with unequal errors below which the test can hardly reject (2^-6 = .016, one-sided)


def wilcoxon_rejects(errors: Sequence[int], best: Sequence[int], p_threshold: float) -> bool:
    """Whether a trial makes more errors than the best one did at the same rung, on the utterances seen so far.

    Wilcoxon's signed-rank test on paired errors of utterances in the study's one order, one-sided, ties left out
    (scipy.stats.wilcoxon, zero_method wilcox). Several looks at one evaluation make it reject more often than
    p_threshold says: a rule for spending, no claim.
    """
    from scipy.stats import wilcoxon  # 60 MB and most of a second, for this rule alone

    seen = min(len(errors), len(best))
    difference = np.asarray(errors[:seen]) - np.asarray(best[:seen])
    if np.count_nonzero(difference) < FEWEST or difference.sum() <= 0:
        return False
    return bool(wilcoxon(difference, alternative="greater", method="asymptotic").pvalue < p_threshold)


def is_dominated(
    rung: Rung,
    fraction: float,
    finished: Sequence[Record],
    objectives: Sequence[Objective],
    margin: float,
    trainable: float,
) -> bool:
    """Whether a finished trial was better at this rung by a margin of WER, and no worse in any other objective.

    Optuna has no pruning under several objectives. The rung lies at `fraction` of the budget, to whose end training
    time is projected.
    """
    if rung.scores is None:
        return False
    now: dict[Objective, float] = {
        "vram": float(rung.peak_memory_bytes or 0),
        "train_time": rung.train_seconds / fraction,
        "trainable": trainable,
    }
    others = [name for name in objectives if name != "wer"]
    for record in finished:
        there = next((r for r in record.rungs if r.index == rung.index and r.scores), None)
        if there is None or there.scores is None or there.scores.wer + margin >= rung.scores.wer:
            continue
        values = [(measured(record, name), now[name]) for name in others]
        if all(value is not None and value <= current for value, current in values):
            return True
    return False
