"""Summarize a finished sweep: limits, Pareto front, replicates, and agreement of loss and WER."""

import itertools
from collections.abc import Sequence

from harness.search.constraints import measured_value
from harness.search.pareto import on_front
from harness.spec.limits import Objective
from harness.spec.result import Record
from harness.spec.space import SearchSpace

SHOWN = {
    "wer": lambda value: f"WER {value:.1%}",
    "vram": lambda value: f"{value / 1e9:.2f} GB",
    "train_time": lambda value: f"{value:.1f} s of training",
    "trainable": lambda value: f"{value:,.0f} trainable",
}


def summary(space: SearchSpace, records: Sequence[Record], ended: str | None) -> list[str]:
    """The lines of the summary; parts without results are left out."""
    lines = [f"ended early: {ended}"] if ended else []
    trials = [record for record in records if record.kind == "trial"]
    stopped = sum(record.state == "pruned" for record in trials)
    infeasible = sum((record.reason or "").startswith(("infeasible", "out_of_memory")) for record in trials)
    if space.limits.as_dict():
        lines.append(f"{infeasible} of {len(trials)} trials exceeded a limit, {stopped - infeasible} were pruned")
    if len(space.objectives) > 1:
        lines.append("Pareto front:")
        for record, values in pareto(trials, space.objectives):
            said = ", ".join(SHOWN[name](value) for name, value in zip(space.objectives, values, strict=True))
            lines.append(f"  {record.name}: {said}")
    for name, (seeds, mean, deviation) in spread(records).items():
        about = "" if deviation is None else f" ± {100 * deviation:.1f} (standard deviation)"
        lines.append(f"{name} with {seeds} fresh seeds: validation WER {mean:.1%}{about}")
    for record in records:
        if not record.portion.whole and record.state == "complete":
            wer = f"validation WER {record.scores.wer:.1%}" if record.scores else "no validation WER"
            lines.append(f"{record.name} (seed {record.seed}): {wer}")
    if packed := sum(record.cost is not None and record.cost.packed is not None for record in records):
        lines.append(f"{packed} runs were packed: their training time and memory are their shares of the trainer's")
    if space.judge == "loss" and (found := disagreement(trials)):
        lines.append(f"loss and WER ranked {found[0]} of {found[1]} pairs of finished trials differently")
    return lines


def pareto(trials: Sequence[Record], objectives: Sequence[Objective]) -> list[tuple[Record, list[float]]]:
    """Completed trials that no other beats or equals in every objective, the lowest WER first."""
    found = []
    for record in trials:
        values = [value for name in objectives if (value := measured_value(record, name)) is not None]
        if record.state == "complete" and len(values) == len(objectives):
            found.append((record, values))
    front = itertools.compress(found, on_front([values for _, values in found]))
    return sorted(front, key=lambda item: item[1][list(objectives).index("wer")])


def disagreement(trials: Sequence[Record]) -> tuple[int, int] | None:
    """(pairs of finished trials that loss and WER order differently at the last rung, all such pairs without ties)."""
    ends = [
        (record.rungs[-1].loss, record.scores.wer) for record in trials if record.state == "complete" and record.scores
    ]
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in itertools.combinations(ends, 2)]
    pairs = [sign for sign in signs if sign]
    return (sum(sign < 0 for sign in pairs), len(pairs)) if pairs else None


def spread(records: Sequence[Record]) -> dict[str, tuple[int, float, float | None]]:
    """For each replicated system: (seeds, mean validation WER, its standard deviation over seeds)."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record.kind == "replicate" and record.portion.whole and record.state == "complete" and record.scores:
            found.setdefault(record.name, []).append(record.scores.wer)
    return {name: (len(wers), sum(wers) / len(wers), _deviation(wers)) for name, wers in found.items()}


def _deviation(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5)
