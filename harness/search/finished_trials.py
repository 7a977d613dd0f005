"""Compare a running trial with the finished ones, to decide at a rung whether it continues."""

from harness.records.study_folder import read_errors, read_record
from harness.search.best_trials import best_trial, ranked_trials
from harness.search.constraints import exceeds_limit
from harness.search.pruners import is_dominated, wilcoxon_rejects
from harness.search.study import Study
from harness.spec.messages import Partial
from harness.spec.result import Record, Rung
from harness.spec.trial import TrialConfig


class FinishedTrials:
    """The trials that a running trial competes with.

    With one objective that is the best trial, compared by errors per utterance; with several, all feasible trials,
    compared by their values at each rung.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._space = study, study.space
        self._records: dict[int, Record] = {}

    def may_continue(self, rung: Rung, config: TrialConfig) -> bool:
        """Whether a trial has kept every limit so far, and no finished trial dominates it at a rung."""
        if exceeds_limit(self._space.limits, rung):
            return False
        if len(self._space.objectives) == 1 or self._space.pruner.name == "none":
            return True
        trainable = float(self._study.trainable_parameters(config) or 0)
        finished = [self._record(number) for number in ranked_trials(self._study)]
        space = self._space
        return not is_dominated(
            rung, space.budget.rungs[rung.index], finished, space.objectives, space.pruner.margin, trainable
        )

    def may_beat_best(self, partial: Partial) -> bool:
        """Whether a trial may still beat the best one, by Wilcoxon's test on the utterances decoded so far."""
        if (best := best_trial(self._study)) is None:
            return True
        best_errors = read_errors(self._study.folder.trial(best)).get(partial.index)
        threshold = self._space.pruner.p_threshold
        return best_errors is None or not wilcoxon_rejects(partial.errors, best_errors, threshold)

    def _record(self, number: int) -> Record:
        if number not in self._records:
            self._records[number] = read_record(self._study.folder.trial(number))
        return self._records[number]
