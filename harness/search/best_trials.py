"""What a study has found so far, in Optuna's terms: who leads, at what cost, and for how long."""

import itertools

from optuna.trial import FrozenTrial, TrialState

from harness.search.pareto import on_front
from harness.search.study import SECONDS, Study


def feasible(study: Study) -> list[FrozenTrial]:
    """Complete trials that kept every limit."""
    complete = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in complete if t.values is not None and all(v <= 0 for v in t.constraints.values())]


def ranked(study: Study) -> list[int]:
    """The numbers of the complete, feasible trials, the lowest validation WER first."""
    place = study.space.objectives.index("wer")
    return [number for _, number in sorted((t.values[place], t.number) for t in feasible(study))]


def pareto(study: Study) -> list[tuple[int, list[float]]]:
    """Trials that no other beats or equals in every objective, with their values."""
    found = [(t.number, list(t.values)) for t in feasible(study)]
    return list(itertools.compress(found, on_front([values for _, values in found])))


def seconds(study: Study) -> float:
    """Training and evaluation of all trials that have ended."""
    return float(sum(t.user_attrs.get(SECONDS, 0.0) for t in study.optuna.get_trials(deepcopy=False)))


def since_better(study: Study) -> int:
    """Trials that have ended, without the failures, since one bettered the best, or the Pareto front.

    One that equals what was there betters nothing.
    """
    first: dict[tuple[float, ...], int] = {}
    for number, values in pareto(study):
        first[tuple(values)] = min(number, first.get(tuple(values), number))
    newest = max(first.values(), default=-1)
    ended = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sum(t.number > newest for t in ended)


def best(study: Study) -> int | None:
    """The number of the trial with the lowest validation WER."""
    return next(iter(ranked(study)), None)
