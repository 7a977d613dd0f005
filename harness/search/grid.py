"""List the points of a search space for the grid sampler."""

import math
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
    return math.prod(len(values) for values in _axes(space).values())


def grid_point(space: SearchSpace, seed: int, number: int) -> dict[str, Any]:
    """Return the point of the grid at a position of an order shuffled by the seed.

    After the last point the order starts again.
    """
    axes = _axes(space)
    size = grid_size(space)
    index = int(np.random.default_rng(seed).permutation(size)[number % size])
    places = np.unravel_index(index, [len(values) for values in axes.values()])
    return {name: values[int(place)] for (name, values), place in zip(axes.items(), places, strict=True)}


def _axes(space: SearchSpace) -> dict[str, list[Any]]:
    points = space.sampler.grid_points
    return {name: grid_points(name, dimension, points) for name, dimension in space.sampled.items()}
