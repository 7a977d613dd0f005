"""Which of several points are not beaten in every respect."""

from collections.abc import Sequence


def on_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the Pareto front, where less is better.

    It is if no other is at least as good in all respects and better in one; equal points do not beat each other.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
