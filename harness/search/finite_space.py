"""Spaces with an end: what is left of one, and a sampler that never proposes what was tried."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from harness.search.grid import grid_points
from harness.search.samplers import IndependentSampler
from harness.search.sampling import optuna_choice
from harness.spec.space import Distribution, Sampler, SearchSpace, is_integer

MOST = 5_000  # configurations above which a space counts as endless
POPULATIONS = ("cmaes", "nsga2")  # propose jointly, and may repeat a member of theirs

Settings = Mapping[str, Any]
Left = dict[frozenset[tuple[str, str]], Settings]


def configurations(space: SearchSpace) -> Left | None:
    """The sampled settings of every configuration, each once; None where there is no end of them, or hardly one."""
    names = space.order()
    axes = [_values(name, space.sampled[name], space.sampler) for name in names]
    known = [values for values in axes if values is not None]
    if len(known) < len(axes) or math.prod(map(len, known)) > MOST or space.sampler.name in POPULATIONS:
        return None
    joined = (space.joined(dict(zip(names, values, strict=True))) for values in itertools.product(*known))
    return by_settings({name: optuna_choice(each[name]) for name in names if name in each} for each in joined)


def by_settings(found: Iterable[Settings]) -> Left:
    """Configurations, each once, by what tells them apart."""
    return {_key(settings): settings for settings in found}


def untried(known: Left, tried: Iterable[Settings]) -> Left:
    """The configurations that no trial has had."""
    had = {_key(settings) for settings in tried}
    return {key: settings for key, settings in known.items() if key not in had}


class WithoutRepeats(IndependentSampler):
    """Another sampler's proposals as far as they lead to a configuration that is left; where not, one at random.

    The same configuration, seed and budget would only give the same result again.
    """

    def __init__(self, sampler: BaseSampler, left: Left, seed: int) -> None:
        self._sampler, self._left, self._random = sampler, left, np.random.default_rng(seed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What the sampler proposes beside the settings drawn before, if a configuration is left that has it."""
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        drawn = _key(trial.params)
        possible = [s[param_name] for key, s in self._left.items() if drawn <= key and param_name in s]
        if not possible or _exact(value) in map(_exact, possible):
            return value
        return possible[self._random.integers(len(possible))]


def _values(name: str, dimension: Distribution, sampler: Sampler) -> list[Any] | None:
    if dimension.choices is not None:
        return list(dimension.choices)
    if dimension.step is not None or sampler.name == "grid":
        return grid_points(name, dimension, sampler.grid_points)
    assert dimension.low is not None and dimension.high is not None
    return list(range(int(dimension.low), int(dimension.high) + 1)) if is_integer(name) else None


def _key(settings: Settings) -> frozenset[tuple[str, str]]:
    return frozenset((name, _exact(value)) for name, value in settings.items())


def _exact(value: Any) -> str:
    """A value such that steps reached by different sums are equal."""
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
