"""Evaluate the limits of a search space: as Optuna constraints, and as a reason to mark a trial infeasible."""

from harness.model_size.parameters import Dimensions, count
from harness.spec.limits import Limits, Objective
from harness.spec.result import OUT_OF_MEMORY, Record, Rung
from harness.spec.trial import TrialConfig

INFEASIBLE = "infeasible: "  # how the reason of such a trial begins in its record
UNITS = {"vram": (1e9, "GB"), "train_time": (1.0, "s"), "trainable": (1.0, "parameters")}


def measured_value(record: Record, name: Objective) -> float | None:
    """Return the value of an objective or limit in a record; None if it was not measured.

    The training time of a pruned trial is extrapolated to the whole budget.
    """
    if name == "wer":
        return record.scores.wer if record.scores else None
    if record.cost is None:
        return None
    if name == "vram":
        return float(record.cost.peak_memory_bytes)
    if name == "trainable":
        return float(record.cost.trainable_parameters)
    fraction = record.budget.rungs[record.rungs[-1].index] if record.state == "pruned" and record.rungs else 1.0
    return record.cost.train_seconds / fraction


def constraint_values(limits: Limits, record: Record, trainable: int | None) -> dict[str, float]:
    """Return the value of every constraint of a trial: value / limit - 1, which is at most 0 where the limit holds.

    A value that was not measured counts as equal to its limit; memory after an out-of-memory error as twice the limit.

    Args:
        limits: The limits of the search space.
        record: The record of the trial.
        trainable: Its trainable parameters, which are computed from the configuration, trained or not.
    """
    ran_out = record.reason == OUT_OF_MEMORY
    values = {OUT_OF_MEMORY: 1.0 if ran_out else -1.0}
    for name, limit in limits.as_dict().items():
        value = trainable if name == "trainable" else measured_value(record, name)  # type: ignore[arg-type]
        if value is None:
            value = 2 * limit if ran_out and name == "vram" else limit
        values[name] = value / limit - 1
    return values


def apply_limits(limits: Limits, record: Record, trainable: int | None) -> Record:
    """Return the record; a complete trial that broke a limit becomes a pruned one, with the reason, and is never best.

    For the arguments see `constraint_values`.
    """
    if record.state != "complete":
        return record
    broken = {name for name, value in constraint_values(limits, record, trainable).items() if value > 0}
    if not broken:
        return record
    reasons = []
    for name in sorted(broken & set(UNITS)):
        value = float(trainable or 0) if name == "trainable" else measured_value(record, name)  # type: ignore[arg-type]
        reasons.append(_over_limit(name, value or 0.0, limits.as_dict()[name]))
    return record.model_copy(update={"state": "pruned", "reason": INFEASIBLE + "; ".join(reasons)})


def _over_limit(name: str, value: float, limit: float) -> str:
    scale, unit = UNITS[name]
    digits = 0 if name == "trainable" else 2
    return f"{name} {value / scale:,.{digits}f} {unit} over {limit / scale:,.{digits}f} {unit}"


def infeasible_before_training(limits: Limits, dims: Dimensions | None, config: TrialConfig) -> str | None:
    """Return why a configuration is infeasible even without training it, or None."""
    if limits.trainable is None or dims is None:
        return None
    trainable = count(dims, config)[0]
    return INFEASIBLE + _over_limit("trainable", trainable, limits.trainable) if trainable > limits.trainable else None


def exceeds_limit(limits: Limits, rung: Rung) -> bool:
    """Whether a trial has exceeded its limit on training time or memory at a rung."""
    time, memory = limits.train_time, limits.vram
    return (time is not None and rung.train_seconds > time) or (
        memory is not None and rung.peak_memory_bytes is not None and rung.peak_memory_bytes > memory
    )
