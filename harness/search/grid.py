"""List the points of a search space for the grid sampler."""

import itertools
from typing import Any

import numpy as np

from harness.search.sampling import optuna_choice
from harness.spec.space import Distribution, SearchSpace, is_integer


def grid_points(name: str, dimension: Distribution, points: int) -> list[Any]:
    """What a grid tries of a dimension: each choice, each step, or `points` from end to end (evenly in the log)."""
    if dimension.choices is not None:
        return [optuna_choice(choice) for choice in dimension.choices]
    assert dimension.low is not None and dimension.high is not None
    if dimension.step is not None:
        found = np.arange(dimension.low, dimension.high + dimension.step / 2, dimension.step)
    elif dimension.log:
        found = np.geomspace(dimension.low, dimension.high, points)
    else:
        found = np.linspace(dimension.low, dimension.high, points)
    if is_integer(name):
        return sorted({round(value) for value in found.tolist()})
    return [min(max(value, dimension.low), dimension.high) for value in found.tolist()]


def grid_size(space: SearchSpace) -> int:
    """How many points the space's grid has."""
    sizes = [len(grid_points(name, held, space.sampler.grid_points)) for name, held in space.sampled.items()]
    return int(np.prod(sizes))


def grid(space: SearchSpace, seed: int) -> list[dict[str, Any]]:
    """Every point once, in an order that the seed shuffles."""
    axes = {name: grid_points(name, held, space.sampler.grid_points) for name, held in space.sampled.items()}
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [points[place] for place in np.random.default_rng(seed).permutation(len(points))]
