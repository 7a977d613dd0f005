"""Find the best run of a study, and load its model."""

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
    """A completed run that has its weights.

    Attributes:
        study: The study's folder.
        path: The folder of the run's record.
        record: The record.
        manifest: The contents of the study's study.json.
    """

    study: StudyFolder
    path: Path
    record: Record
    manifest: dict[str, Any]

    @property
    def model(self) -> str:
        """Name of the base model."""
        return str(self.manifest["identity"]["model"])

    @property
    def task(self) -> str:
        """The task as given on the command line."""
        return str(self.manifest["task"])

    @property
    def spoken_language(self) -> str | None:
        """The language of the data; None if there are several."""
        languages = self.record.data.get("languages", ())
        return str(languages[0]) if len(languages) == 1 else None

    @property
    def language(self) -> str | None:
        """The language whose token the run was decoded with, a proxy's where the data has one.

        None if there are several, or if the run lets the model detect it.
        """
        if not self.record.config.forced_language:
            return None
        proxies = self.data_report.get("proxy_languages", {})
        tokens = {proxies.get(language, language) for language in self.record.data.get("languages", ())}
        return str(tokens.pop()) if len(tokens) == 1 else None

    @property
    def data_report(self) -> dict[str, Any]:
        """The study's data report; empty if there is none."""
        path = self.study.path / "data_report.json"
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return report

    @property
    def speech_task(self) -> str:
        """The task token of Whisper: transcribe or translate."""
        return str(self.manifest["identity"]["task"].get("task", "transcribe"))

    @property
    def weights(self) -> Path:
        """The folder of the trained weights."""
        return self.path / "weights"


def find_best_run(
    results: Path, study: str, trial: int | None = None, baseline: str | None = None, refit: bool = False
) -> BestRun:
    """Find the run to publish: a named one, else the best trial on validation, else the best baseline.

    Args:
        results: The results folder.
        study: Name of the study.
        trial: Number of a trial.
        baseline: Name of a baseline, tuned or not.
        refit: Return the refit of the trial, which was trained with its configuration on train and validation.

    Raises:
        UserError: The run does not exist, was not completed, was not trained, or its weights were not kept.
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
        named |= {tuned.name: tuned.best for tuned in tuned_baselines(stored)}
        if wanted not in named:
            raise UserError(f"study {study!r} has no completed {wanted!r} that was trained; {nearest(wanted, named)}")
        chosen = named[wanted]
    else:
        candidates = [item for item in trained if item[1].kind == "trial"] or trained
        if not candidates:
            raise UserError(f"study {study!r} has no completed run that was trained; resume it with run_sweep.py")
        chosen = min(candidates, key=lambda item: (item[1].scores.wer if item[1].scores else 0.0, item[1].number or 0))
    path, record = chosen
    if refit:
        refits = [(p, r) for p, r in stored if r.portion.with_validation and r.number == record.number]
        complete = [item for item in refits if item[1].state == "complete"]
        if record.kind != "trial" or not complete:
            raise UserError(f"study {study!r} has no refit of its best trial; run_sweep.py --refit trains it")
        path, record = complete[0]
    if not (path / "weights").is_dir():
        raise UserError(
            f"the weights of {record.name} were not kept; a study keeps those of its best trials and its baselines"
        )
    return BestRun(folder, path, record, json.loads(folder.manifest.read_text(encoding="utf-8")))


def open_base(best_run: BestRun, full: bool = False) -> Base:
    """Load the base model in the weights that the run was trained on, or with `full` unquantised."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_base(best_run.model, device, "full" if full else best_run.record.config.base_weights)


@contextmanager
def load_best_run(base: Base, best_run: BestRun, trial_settings: bool = True) -> Iterator[nn.Module]:
    """Load the run's weights into the base model; the base is restored afterwards.

    Args:
        base: The base model.
        best_run: The run.
        trial_settings: Also apply the trial's settings of the model, such as its encoder window.
    """
    model: nn.Module = base.model
    try:
        model = load_trained(base, best_run.record.config, best_run.weights)
        with apply_trial_settings(base, best_run.record.config) if trial_settings else nullcontext():
            yield model
    finally:
        detach(base, model)


@contextmanager
def load_best_run_or_base(base: Base, best_run: BestRun | None) -> Iterator[nn.Module]:
    """Load the run's weights into the base model as `load_best_run` does; for None yield the base as it is."""
    if best_run is None:
        yield base.model
        return
    with load_best_run(base, best_run) as model:
        yield model
