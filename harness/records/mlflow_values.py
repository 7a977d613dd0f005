"""Translate a record into what its MLflow run holds: parameters, metrics, tags, status and times."""

import hashlib
from datetime import datetime
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from harness.records.study_folder import Run
from harness.spec.result import Record, Rung

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED"}
HASH = "record_hash"  # tag: the record that a run was mirrored from; missing while the run is incomplete


def params(run: Run) -> list[Param]:
    """Return the settings of a run and its seed. MLflow refuses to change them later."""
    settings = {**run.config.settings(), "seed": run.seed}
    return [Param(name, ",".join(map(str, v)) if isinstance(v, list) else str(v)) for name, v in settings.items()]


def rung_metrics(rung: Rung, started: str) -> list[Metric]:
    """Return the scores and losses of a rung that are not missing.

    Their time is the start of the run plus its training time, which is the same whether they are logged while it runs
    or later from its record. MLflow shows the value with the greatest step, then time.
    """
    values: dict[str, Any] = {
        "wer": rung.scores and rung.scores.wer,
        "wer_raw": rung.scores and rung.scores.wer_raw,
        "cer": rung.scores and rung.scores.cer,
        "loss": rung.loss,
        "train_loss": rung.train_loss,
    }
    time = milliseconds(started) + round(1000 * rung.train_seconds) + rung.index
    return [Metric(name, value, time, rung.step) for name, value in values.items() if value is not None]


def cost_metrics(record: Record) -> list[Metric]:
    """Return all numbers of a record's cost, at its last step."""
    if record.cost is None:
        return []
    numbers = {name: v for name, v in record.cost.model_dump().items() if isinstance(v, int | float)}
    return [Metric(name, v, milliseconds(record.ended), record.cost.steps) for name, v in numbers.items()]


def tags(record: Record) -> list[RunTag]:
    """Return the exact state of a record, its reason and notes, as tags."""
    values = {"state": record.state, "reason": record.reason or "", "notes": "; ".join(record.notes)}
    return [RunTag(name, value) for name, value in values.items()]


def record_hash(record: Record) -> str:
    """Return a hash of everything that is in a record."""
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:16]


def milliseconds(time: str) -> int:
    """Return a time of a record as MLflow stores times."""
    return round(1000 * datetime.fromisoformat(time).timestamp())
