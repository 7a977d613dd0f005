"""List the points of a search space for the grid sampler."""

import itertools
from typing import Any

import numpy as np

from harness.search.sampling import optuna_choice
from harness.spec.space import Distribution, SearchSpace, is_integer


def grid_points(name: str, dimension: Distribution, points: int) -> list[Any]:
    """Return the grid values of a setting.

    Args:
        name: The setting; integer settings get rounded values, without duplicates.
        dimension: Its distribution. Of choices and of ranges with a step every value is in the grid.
        points: Number of values of a range without a step, evenly spaced (in the logarithm for a log range).
    """
    if dimension.choices is not None:
        return [optuna_choice(choice) for choice in dimension.choices]
    assert dimension.low is not None and dimension.high is not None
    if dimension.step is not None:
        values = np.arange(dimension.low, dimension.high + dimension.step / 2, dimension.step)
    elif dimension.log:
        values = np.geomspace(dimension.low, dimension.high, points)
    else:
        values = np.linspace(dimension.low, dimension.high, points)
    if is_integer(name):
        return sorted({round(value) for value in values.tolist()})
    return [min(max(value, dimension.low), dimension.high) for value in values.tolist()]


def grid_size(space: SearchSpace) -> int:
    """Return the number of points of a space's grid."""
    return int(np.prod([len(values) for values in _axes(space).values()]))


def grid(space: SearchSpace, seed: int) -> list[dict[str, Any]]:
    """Return every point of the grid once, in an order shuffled by the seed."""
    axes = _axes(space)
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [points[index] for index in np.random.default_rng(seed).permutation(len(points))]


def _axes(space: SearchSpace) -> dict[str, list[Any]]:
    points = space.sampler.grid_points
    return {name: grid_points(name, dimension, points) for name, dimension in space.sampled.items()}
