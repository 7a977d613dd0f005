"""Rank the finished trials of a study, and measure how much it has spent and when it last improved."""

import itertools

from optuna.trial import FrozenTrial, TrialState

from harness.search.pareto import on_front
from harness.search.study import SECONDS_ATTRIBUTE, Study


def feasible_trials(study: Study) -> list[FrozenTrial]:
    """Return the complete trials that satisfy every constraint."""
    complete = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in complete if t.values is not None and all(v <= 0 for v in t.constraints.values())]


def ranked_trials(study: Study) -> list[int]:
    """Return the numbers of the feasible trials, the lowest validation WER first."""
    wer = study.space.objectives.index("wer")
    return [number for _, number in sorted((t.values[wer], t.number) for t in feasible_trials(study))]


def best_trial(study: Study) -> int | None:
    """Return the number of the feasible trial with the lowest validation WER; None without one."""
    return next(iter(ranked_trials(study)), None)


def pareto_front(study: Study) -> list[tuple[int, list[float]]]:
    """Return number and objective values of the feasible trials on the Pareto front."""
    trials = [(t.number, list(t.values)) for t in feasible_trials(study)]
    return list(itertools.compress(trials, on_front([values for _, values in trials])))


def total_seconds(study: Study) -> float:
    """Return the seconds of training and evaluation of all trials that have ended, retried attempts included."""
    return float(sum(t.user_attrs.get(SECONDS_ATTRIBUTE, 0.0) for t in study.optuna.get_trials(deepcopy=False)))


def trials_since_improvement(study: Study) -> int:
    """Return how many trials have ended, failures excluded, since the best value or the Pareto front last improved.

    A trial that equals an earlier one is no improvement.
    """
    first: dict[tuple[float, ...], int] = {}
    for number, values in pareto_front(study):
        first[tuple(values)] = min(number, first.get(tuple(values), number))
    newest = max(first.values(), default=-1)
    ended = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sum(t.number > newest for t in ended)
