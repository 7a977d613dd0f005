"""The run of a study that is put to use: which one, and its model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import UserError, nearest
from harness.model.base import Base, load_base
from harness.model.methods import detach, load_trained
from harness.model.trial_settings import apply_trial_settings
from harness.records.study_folder import StudyFolder, open_study
from harness.records.tuned_baselines import tuned_baselines
from harness.spec.result import Record


@dataclass(frozen=True)
class BestRun:
    """A finished run with its weights, and what its study was about."""

    study: StudyFolder
    path: Path
    record: Record
    manifest: dict[str, Any]

    @property
    def model(self) -> str:
        """The base model's name."""
        return str(self.manifest["identity"]["model"])

    @property
    def task(self) -> str:
        """The task as it was named."""
        return str(self.manifest["task"])

    @property
    def language(self) -> str | None:
        """The one language of the data, by Whisper's code; None where there are several."""
        languages = self.record.data.get("languages", ())
        return str(languages[0]) if len(languages) == 1 else None

    @property
    def speech_task(self) -> str:
        """Transcribe or translate."""
        return str(self.manifest["identity"]["task"].get("task", "transcribe"))

    @property
    def weights(self) -> Path:
        """What was trained."""
        return self.path / "weights"


def find_best_run(
    results: Path, study: str, trial: int | None = None, baseline: str | None = None, refit: bool = False
) -> BestRun:
    """The trial or baseline that is named; else the best trial on validation, else the best baseline.

    With `refit` it is what was trained once more, with the best trial's settings, on train and validation.

    Raises:
        UserError: if it does not exist, was not completed, was not trained, or its weights were not kept.
    """
    folder = open_study(results, study)
    stored = list(folder.records())
    trained = [
        (path, record)
        for path, record in stored
        if record.state == "complete" and record.kind in ("trial", "recipe") and record.scores is not None
    ]
    wanted = f"trial {trial}" if trial is not None else baseline
    if wanted is not None:
        named = {record.name: (path, record) for path, record in trained}
        named |= {held.name: held.best for held in tuned_baselines(stored)}
        if wanted not in named:
            raise UserError(f"study {study!r} has no completed {wanted!r} that was trained; {nearest(wanted, named)}")
        chosen = named[wanted]
    else:
        found = [item for item in trained if item[1].kind == "trial"] or trained
        if not found:
            raise UserError(f"study {study!r} has no completed run that was trained; run_sweep.py goes on with it")
        chosen = min(found, key=lambda item: (item[1].scores.wer if item[1].scores else 0.0, item[1].number or 0))
    path, record = chosen
    if refit:
        again = [(p, r) for p, r in stored if r.portion.with_validation and r.number == record.number]
        complete = [item for item in again if item[1].state == "complete"]
        if record.kind != "trial" or not complete:
            raise UserError(f"study {study!r} has no refit of its best trial; run_sweep.py --refit makes it")
        path, record = complete[0]
    if not (path / "weights").is_dir():
        raise UserError(
            f"the weights of {record.name} were not kept; a study keeps those of its best trials and of its baselines"
        )
    return BestRun(folder, path, record, json.loads(folder.manifest.read_text(encoding="utf-8")))


def open_base(best_run: BestRun, full: bool = False) -> Base:
    """The winner's base in the weights that it was trained on, or unquantised."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_base(best_run.model, device, "full" if full else best_run.record.config.base_weights)


@contextmanager
def tuned(base: Base, best_run: BestRun, shape: bool = True) -> Iterator[nn.Module]:
    """The base with the winner's weights and, unless `shape` is off, its encoder window; it comes back afterwards."""
    model: nn.Module = base.model
    try:
        model = load_trained(base, best_run.record.config, best_run.weights)
        with apply_trial_settings(base, best_run.record.config) if shape else nullcontext():
            yield model
    finally:
        detach(base, model)


@contextmanager
def load_best_run_or_base(base: Base, best_run: BestRun | None) -> Iterator[nn.Module]:
    """The winner's model, or for None the base as it is."""
    if best_run is None:
        yield base.model
        return
    with tuned(base, best_run) as model:
        yield model
