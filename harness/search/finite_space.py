"""Track which configurations of a finite search space have not been tried, and sample only those."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import MappingProxyType
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
from harness.spec.trial import applies

POPULATION_SAMPLERS = ("cmaes", "nsga2")  # they sample jointly, and may propose a member of their population again

Settings = Mapping[str, Any]
Key = frozenset[tuple[str, str]]  # identifies a configuration by its sampled settings


class FiniteSpace:
    """The configurations of a search space that has finitely many, found without a list of all."""

    def __init__(
        self, axes: Mapping[str, Sequence[Any]], applies: Callable[[str, Settings], bool] = lambda name, drawn: True
    ) -> None:
        """Args: the values of each setting, in sampling order, and whether a setting applies beside those before it."""
        self.axes, self._applies = axes, applies

    def configurations(self, drawn: Settings = MappingProxyType({})) -> Iterator[Settings]:
        """Yield the settings of each configuration that has the drawn ones."""
        name = next((name for name in self.axes if name not in drawn and self._applies(name, drawn)), None)
        if name is None:
            yield drawn
            return
        for value in self.axes[name]:
            yield from self.configurations({**drawn, name: value})

    def has_untried(self, tried: Container[Key], drawn: Settings = MappingProxyType({})) -> bool:
        """Whether a configuration with the drawn settings is not among the tried ones.

        It looks at no more configurations than were tried, and one.
        """
        return any(settings_key(settings) not in tried for settings in self.configurations(drawn))


def finite_space(space: SearchSpace) -> FiniteSpace | None:
    """Return the configurations of a space; None if it is infinite, or its sampler works on populations."""
    names = space.sampling_order()
    axes = {name: _values(name, space.sampled[name], space.sampler) for name in names}
    finite = {name: [optuna_choice(value) for value in values] for name, values in axes.items() if values is not None}
    if len(finite) < len(axes) or space.sampler.name in POPULATION_SAMPLERS:
        return None
    return FiniteSpace(finite, lambda name, drawn: applies(name, {**space.fixed, **drawn}))


def settings_key(settings: Settings) -> Key:
    """Return the key of sampled settings."""
    return frozenset((name, _text(value)) for name, value in settings.items())


class WithoutRepeats(IndependentSampler):
    """Wrap a sampler so that it never proposes a configuration that was tried.

    A value that leads to no untried configuration is replaced by a random one that does. Repeating a configuration
    under the same seed and budget would only repeat its result.
    """

    def __init__(self, sampler: BaseSampler, space: FiniteSpace, tried: Container[Key], seed: int) -> None:
        self._sampler, self._space, self._tried = sampler, space, tried
        self._random = np.random.default_rng(seed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the wrapped sampler's value if an untried configuration has it and the settings drawn before."""
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        if self._leads_on(trial, param_name, value):
            return value
        possible = [other for other in self._space.axes[param_name] if self._leads_on(trial, param_name, other)]
        return possible[self._random.integers(len(possible))] if possible else value

    def _leads_on(self, trial: FrozenTrial, name: str, value: Any) -> bool:
        return self._space.has_untried(self._tried, {**trial.params, name: value})


def _values(name: str, dimension: Distribution, sampler: Sampler) -> list[Any] | None:
    if dimension.choices is not None:
        return list(dimension.choices)
    if dimension.step is not None or sampler.name == "grid":
        return grid_points(name, dimension, sampler.grid_points)
    assert dimension.low is not None and dimension.high is not None
    return list(range(int(dimension.low), int(dimension.high) + 1)) if is_integer(name) else None


def _text(value: Any) -> str:
    """Return a value as text; floats are rounded, so that steps reached by different sums are equal."""
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
