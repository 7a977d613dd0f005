"""Find the systems on the Pareto front of rate and costs."""

from collections.abc import Mapping, Sequence

from harness.search.pareto import on_front

# What is weighed, and which way is better; a system that lacks one of these has no place on the front.
DIRECTIONS = {
    "rate": "lower",
    "peak_memory_bytes": "lower",
    "train_seconds": "lower",
    "trainable_parameters": "lower",
}


def pareto_front(
    rows: Sequence[Mapping[str, float | None]], directions: Mapping[str, str] = DIRECTIONS
) -> list[bool | None]:
    """Return whether each row is on the Pareto front; None if it lacks a value."""
    points = [_point(row, directions) for row in rows]
    front = iter(on_front([point for point in points if point is not None]))
    return [None if point is None else next(front) for point in points]


def _point(row: Mapping[str, float | None], directions: Mapping[str, str]) -> tuple[float, ...] | None:
    values = []
    for field, direction in directions.items():
        value = row[field]
        if value is None:
            return None
        values.append(value if direction == "lower" else -value)
    return tuple(values)
