"""Compare a stored record with the run that is asked for, and set aside records that do not answer for it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records.study_folder import Run, StudyFolder
from harness.spec.budget import Budget
from harness.spec.result import Record


def run_identity(run: Run, budget: Budget, data: Mapping[str, str]) -> dict[str, Any]:
    """Return what determines the result of a run, as JSON values.

    Args:
        run: The run.
        budget: Its budget, epochs converted to examples.
        data: Hash of each split, and of the augmentation.
    """
    return {
        "config": run.config.settings(),
        "budget": budget.model_dump(mode="json"),
        "seed": run.seed,
        "portion": run.portion.model_dump(mode="json"),
        "data": dict(data),
    }


def record_identity(record: Record, train_utterances: int | None) -> dict[str, Any]:
    """Return the same of a record; `train_utterances` converts epochs that it still has."""
    budget = record.budget if train_utterances is None else record.budget.resolved(train_utterances)
    return run_identity(Run.of(Path(), record), budget, {k: v for k, v in record.data.items() if isinstance(v, str)})


def data_hashes(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of each split in a data report."""
    return {name: split["hash"] for name, split in report["splits"].items()}


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return in words how two identities differ; splits and parts that are missing in `stored` are not compared."""
    found = _changes(stored["config"], wanted["config"])
    for name in ("budget", "portion"):
        found += [f"{name}: {change}" for change in _changes(stored.get(name, wanted[name]), wanted[name])]
    if stored.get("seed", wanted["seed"]) != wanted["seed"]:
        found.append(f"seed {stored['seed']} -> {wanted['seed']}")
    data = stored.get("data", {})
    changed = [name for name, digest in wanted["data"].items() if data.get(name, digest) != digest]
    return found + [f"{name} has other content" for name in changed]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} {old.get(name, 'unset')} -> {new.get(name, 'unset')}" for name in names]


def set_aside(folder: StudyFolder, path: Path) -> Path:
    """Move a folder of records to superseded/, where nothing reads it; returns its new place."""
    key, number = folder.key(path), 1
    while (place := folder.path / "superseded" / (key if number == 1 else f"{key}-{number}")).exists():
        number += 1
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)
    return place
