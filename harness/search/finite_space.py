"""Track which configurations of a finite search space have not been tried, and sample only those."""

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

MAX_CONFIGURATIONS = 5_000  # a larger space is treated as infinite
POPULATION_SAMPLERS = ("cmaes", "nsga2")  # they sample jointly, and may propose a member of their population again

Settings = Mapping[str, Any]
Configurations = dict[frozenset[tuple[str, str]], Settings]  # sampled settings by a key that identifies them


def enumerate_configurations(space: SearchSpace) -> Configurations | None:
    """Return the sampled settings of every configuration of a space, each once.

    Returns:
        None if the space is infinite, has more than `MAX_CONFIGURATIONS` (counted before settings that do not apply
        are dropped), or its sampler works on populations.
    """
    names = space.sampling_order()
    axes = [_values(name, space.sampled[name], space.sampler) for name in names]
    finite = [values for values in axes if values is not None]
    if (
        len(finite) < len(axes)
        or math.prod(map(len, finite)) > MAX_CONFIGURATIONS
        or space.sampler.name in POPULATION_SAMPLERS
    ):
        return None
    configs = (space.with_fixed(dict(zip(names, values, strict=True))) for values in itertools.product(*finite))
    return index_by_settings(
        {name: optuna_choice(config[name]) for name in names if name in config} for config in configs
    )


def index_by_settings(configurations: Iterable[Settings]) -> Configurations:
    """Return configurations by their key; equal ones once."""
    return {_key(settings): settings for settings in configurations}


def untried(configurations: Configurations, tried: Iterable[Settings]) -> Configurations:
    """Return the configurations that are not among the tried ones."""
    tried_keys = {_key(settings) for settings in tried}
    return {key: settings for key, settings in configurations.items() if key not in tried_keys}


class WithoutRepeats(IndependentSampler):
    """Wrap a sampler so that it never proposes a configuration that was tried.

    A value that leads to no untried configuration is replaced by a random one that does. Repeating a configuration
    under the same seed and budget would only repeat its result.
    """

    def __init__(self, sampler: BaseSampler, remaining: Configurations, seed: int) -> None:
        self._sampler, self._remaining, self._random = sampler, remaining, np.random.default_rng(seed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the wrapped sampler's value if an untried configuration has it and the settings drawn before."""
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        drawn = _key(trial.params)
        possible = [s[param_name] for key, s in self._remaining.items() if drawn <= key and param_name in s]
        if not possible or _text(value) in map(_text, possible):
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
    return frozenset((name, _text(value)) for name, value in settings.items())


def _text(value: Any) -> str:
    """Return a value as text; floats are rounded, so that steps reached by different sums are equal."""
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
