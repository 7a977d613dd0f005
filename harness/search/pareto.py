"""Find the points on a Pareto front."""

from collections.abc import Sequence


def on_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each point whether it is on the Pareto front, where lower values are better.

    A point is on the front if no other point is at least as good in all values and better in one. Equal points do not
    dominate each other.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
