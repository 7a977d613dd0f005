"""The trials that have ended, against which one under way is held."""

from harness.records.study_folder import read_errors, read_record
from harness.search.best_trials import best, ranked
from harness.search.constraints import exceeds_limit
from harness.search.pruners import is_dominated, wilcoxon_rejects
from harness.search.study import Study
from harness.spec.messages import Partial
from harness.spec.result import Record, Rung
from harness.spec.trial import TrialConfig


class FinishedTrials:
    """What a trial competes with: the best one at its rungs, or all that have ended under several objectives."""

    def __init__(self, study: Study) -> None:
        self._study, self._space = study, study.space
        self._records: dict[int, Record] = {}

    def may_go_on(self, rung: Rung, config: TrialConfig) -> bool:
        """Whether no limit is broken already, and no finished trial dominates this one at a rung."""
        if exceeds_limit(self._space.limits, rung):
            return False
        if len(self._space.objectives) == 1 or self._space.pruner.name == "none":
            return True
        trainable = float(self._study.trainable(config) or 0)
        finished = [self._record(number) for number in ranked(self._study)]
        space = self._space
        return not is_dominated(
            rung, space.budget.rungs[rung.index], finished, space.objectives, space.pruner.margin, trainable
        )

    def may_win(self, part: Partial) -> bool:
        """Whether a trial has not yet lost against the best one, on the utterances of this rung decoded so far."""
        if (leader := best(self._study)) is None:
            return True
        known = read_errors(self._study.folder.trial(leader)).get(part.index)
        return known is None or not wilcoxon_rejects(part.errors, known, self._space.pruner.p_threshold)

    def _record(self, number: int) -> Record:
        if number not in self._records:
            self._records[number] = read_record(self._study.folder.trial(number))
        return self._records[number]
