"""Which limits a trial kept: what Optuna is told of them, and what is made of a trial that broke one."""

from harness.model_size.parameters import Dimensions, count
from harness.spec.limits import Limits, Objective
from harness.spec.result import OUT_OF_MEMORY, Record, Rung
from harness.spec.trial import TrialConfig

INFEASIBLE = "infeasible: "
UNITS = {"vram": (1e9, "GB"), "train_time": (1.0, "s"), "trainable": (1.0, "parameters")}


def measured(record: Record, name: Objective) -> float | None:
    """What a record has of an objective or a limit; training time as it would be had the trial run to its end."""
    if name == "wer":
        return record.scores.wer if record.scores else None
    if record.cost is None:
        return None
    if name == "vram":
        return float(record.cost.peak_memory_bytes)
    if name == "trainable":
        return float(record.cost.trainable_parameters)
    done = record.budget.rungs[record.rungs[-1].index] if record.state == "pruned" and record.rungs else 1.0
    return record.cost.train_seconds / done


def constraints(limits: Limits, record: Record, trainable: int | None) -> dict[str, float]:
    """Every constraint of a trial, at most 0 where it holds: what it took over its limit, less 1.

    What was not measured counts as just kept, memory after an out-of-memory as twice the limit. `trainable` is
    known by arithmetic, trained or not.
    """
    ran_out = record.reason == OUT_OF_MEMORY
    found = {OUT_OF_MEMORY: 1.0 if ran_out else -1.0}
    for name, limit in limits.given().items():
        value = trainable if name == "trainable" else measured(record, name)  # type: ignore[arg-type]
        if value is None:
            value = 2 * limit if ran_out and name == "vram" else limit
        found[name] = value / limit - 1
    return found


def judged(limits: Limits, record: Record, trainable: int | None) -> Record:
    """The record as it counts: a completed trial that broke a limit is stopped, with the reason, and never best."""
    if record.state != "complete":
        return record
    broken = {name for name, value in constraints(limits, record, trainable).items() if value > 0}
    if not broken:
        return record
    said = []
    for name in sorted(broken & set(UNITS)):
        value = float(trainable or 0) if name == "trainable" else measured(record, name)  # type: ignore[arg-type]
        said.append(_over(name, value or 0.0, limits.given()[name]))
    return record.model_copy(update={"state": "pruned", "reason": INFEASIBLE + "; ".join(said)})


def _over(name: str, value: float, limit: float) -> str:
    scale, unit = UNITS[name]
    digits = 0 if name == "trainable" else 2
    return f"{name} {value / scale:,.{digits}f} {unit} over {limit / scale:,.{digits}f} {unit}"


def infeasible_before_training(limits: Limits, dims: Dimensions | None, config: TrialConfig) -> str | None:
    """Why a configuration need not be trained to be known as infeasible, or None."""
    if limits.trainable is None or dims is None:
        return None
    trained = count(dims, config)[0]
    return INFEASIBLE + _over("trainable", trained, limits.trainable) if trained > limits.trainable else None


def exceeds_limit(limits: Limits, rung: Rung) -> bool:
    """Whether a trial has broken a limit already at a rung."""
    time, memory = limits.train_time, limits.vram
    return (time is not None and rung.train_seconds > time) or (
        memory is not None and rung.peak_memory_bytes is not None and rung.peak_memory_bytes > memory
    )
