"""Decide at a rung whether a trial is pruned: Optuna's pruners, and two rules that Optuna does not have.

Optuna's pruners compare rung values. `wilcoxon_rejects` compares errors per utterance, and `is_dominated` serves
studies with several objectives, in which Optuna cannot prune.
"""

import warnings
from collections.abc import Callable, Container, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.search.constraints import measured_value
from harness.search.slots import trial_slots
from harness.spec.limits import Objective
from harness.spec.result import Record, Rung
from harness.spec.space import Pruner


class SelectedTrials:
    """A study that shows only some of its trials."""

    def __init__(self, study: optuna.Study, select: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> None:
        self._study, self._select = study, select

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the selected trials that are in one of the states."""
        trials = self._select(self._study.get_trials(deepcopy=deepcopy))
        return [trial for trial in trials if states is None or trial.state in states]


def without_failed(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials without failed attempts, whose values would compete with those of their retries."""
    return [trial for trial in trials if trial.state != TrialState.FAIL]


class SuccessiveHalving(optuna.pruners.SuccessiveHalvingPruner):
    """ASHA without failed attempts, so that a kill does not change which trials continue."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial at the rung that it has just reported."""
        return super().prune(cast(optuna.Study, SelectedTrials(study, without_failed)), trial)


class Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband without failed attempts, in which a retry is in the bracket of the trial before it.

    Optuna chooses the bracket by the trial's number, which a retry does not share, and computes the number of brackets
    with a floating-point logarithm, which loses one for 6 rungs of factor 3.
    """

    def __init__(self, rungs: int, factor: int) -> None:
        super().__init__(min_resource=1, max_resource=factor ** (rungs - 1), reduction_factor=factor)
        self._n_brackets = rungs
        self._try_initialization(cast(optuna.Study, None))  # it reads the study only if max_resource is unknown

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return self._bracket(study.study_name, trial_slots(study.get_trials(deepcopy=False))[trial.number])

    def _bracket(self, study_name: str, slot: int) -> int:
        study, trial = SimpleNamespace(study_name=study_name), SimpleNamespace(number=slot)
        return super()._get_bracket_id(cast(optuna.Study, study), cast(FrozenTrial, trial))

    def _create_bracket_study(self, study: optuna.Study, bracket_id: int) -> optuna.Study:
        def in_bracket(trials: list[FrozenTrial]) -> list[FrozenTrial]:
            slots = trial_slots(trials)
            return [t for t in without_failed(trials) if self._bracket(study.study_name, slots[t.number]) == bracket_id]

        return cast(optuna.Study, SelectedTrials(study, in_bracket))


def make_pruner(pruner: Pruner, rungs: int) -> optuna.pruners.BasePruner:
    """Return the Optuna pruner; values are reported at `rung_step`. Wilcoxon's test is not Optuna's (see below)."""
    factor = pruner.reduction_factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if pruner.name == "hyperband":
            return Hyperband(rungs, factor)
        median = optuna.pruners.MedianPruner(n_startup_trials=pruner.n_startup_trials)
        if pruner.name == "median":
            return median
        if pruner.name == "patient":
            return optuna.pruners.PatientPruner(median, patience=pruner.patience)
    if pruner.name == "successive_halving":
        return SuccessiveHalving(min_resource=1, reduction_factor=factor, min_early_stopping_rate=0)
    return optuna.pruners.NopPruner()


def rung_step(pruner: Pruner, index: int) -> int:
    """Return the step at which rung `index` is reported: that of successive halving's rung, for any budget."""
    return int(pruner.reduction_factor**index)


FEWEST = 6  # utterances with unequal errors below which the test can hardly reject (2^-6 = .016, one-sided)


def wilcoxon_rejects(errors: Sequence[int], best: Sequence[int], p_threshold: float) -> bool:
    """Whether a trial makes more errors than the best one at the same rung, on the utterances decoded so far.

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
        values = [(measured_value(record, name), now[name]) for name in others]
        if all(value is not None and value <= current for value, current in values):
            return True
    return False
