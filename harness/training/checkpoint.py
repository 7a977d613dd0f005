"""Store a trial's state at each rung, so that an interrupted trial resumes there with identical results.

A checkpoint/ folder holds, for the k-th rung:

- weights-<k>.safetensors: the trained weights,
- state-<k>.<process>.pt: optimizer, schedule and random generators (tensors and plain values, read with weights_only),
- transcripts-<k>.jsonl: the transcripts of the rung,
- rungs.json: the rungs so far. It is written last and its length is k, so that a crash leaves either the previous
  checkpoint or this one.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from harness.records.files import write_json
from harness.records.study_folder import read_transcripts, write_transcripts
from harness.spec.result import Rung, Transcript
from harness.spec.trial import TrialConfig
from harness.training.loop import Progress, TrainingObjects

VERSION = 2  # of the state files; a checkpoint of another version is not resumed from: the trial starts again


@dataclass(frozen=True)
class TrialState:
    """State of a trial after a rung, apart from tensors.

    Attributes:
        config: The configuration as run (the micro-batch may have been halved).
        progress: Training so far.
        peaks: Peak memory: "reserved" and "allocated", each by phase.
        rungs: The evaluated rungs.
        transcripts: Transcripts of the last decoded rung.
        errors: Word errors of each utterance at the last rung, in the order of evaluation.
    """

    config: TrialConfig
    progress: Progress
    peaks: dict[str, dict[str, int]]
    rungs: list[Rung]
    transcripts: list[Transcript]
    errors: list[int]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        folder: Where it is stored.
        trial: The state of the trial.
        stored: The contents of the state file, which `restore` and `restore_random` use.
    """

    folder: Path
    trial: TrialState
    stored: dict[str, Any]


def save(folder: Path, objects: TrainingObjects, trial: TrialState) -> None:
    """Store the state after a rung, then delete the previous one. All processes of a trial must call it."""
    folder.mkdir(exist_ok=True)
    accelerator, count = objects.accelerator, len(trial.rungs)
    state: dict[str, Any] = {"version": VERSION, "random": _random_state()}
    if accelerator.is_main_process:
        trainable = {name: p.detach().contiguous() for name, p in objects.model.named_parameters() if p.requires_grad}
        _write_atomically(folder / f"weights-{count}.safetensors", lambda path: save_file(trainable, path))
        write_transcripts(folder / f"transcripts-{count}.jsonl", trial.transcripts)
        state |= {
            "optimizer": objects.optimizer.state_dict(),
            "scheduler": objects.scheduler.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "config": trial.config.model_dump(mode="json", exclude_none=True),
            "progress": asdict(trial.progress),
            "peaks": trial.peaks,
            "errors": trial.errors,
        }
    _write_atomically(_state_file(folder, count, accelerator.process_index), lambda path: torch.save(state, path))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(folder / "rungs.json", [rung.model_dump(mode="json") for rung in trial.rungs])
        for path in folder.iterdir():
            if path.name != "rungs.json" and f"-{count}." not in path.name:
                path.unlink()


def load(folder: Path, accelerator: Accelerator) -> Checkpoint | None:
    """Load the checkpoint in a folder.

    Returns:
        The checkpoint; None if there is none, or if another version or another number of processes wrote it.
    """
    path = folder / "rungs.json"
    if not path.is_file():
        return None
    rungs = [Rung.model_validate(rung) for rung in json.loads(path.read_text(encoding="utf-8"))]
    own, first = (_state_file(folder, len(rungs), number) for number in (accelerator.process_index, 0))
    if len(list(folder.glob(f"state-{len(rungs)}.*.pt"))) != accelerator.num_processes:
        return None
    stored = torch.load(first, map_location="cpu", weights_only=True)
    if stored.get("version") != VERSION:
        return None
    stored["random"] = torch.load(own, map_location="cpu", weights_only=True)["random"]
    trial = TrialState(
        config=TrialConfig.model_validate(stored["config"]),
        progress=Progress(**stored["progress"]),
        peaks=stored["peaks"],
        rungs=rungs,
        transcripts=read_transcripts(folder / f"transcripts-{len(rungs)}.jsonl"),
        errors=stored["errors"],
    )
    return Checkpoint(folder, trial, stored)


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy the checkpoint of another attempt, atomically, unless `folder` already exists."""
    if source.resolve() != folder.resolve() and source.is_dir() and not folder.exists():
        partial = folder.with_name(".checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        os.replace(partial, folder)


def restore(checkpoint: Checkpoint, objects: TrainingObjects) -> None:
    """Restore weights, optimizer, schedule and loss scale."""
    stored, parameters = checkpoint.stored, dict(objects.model.named_parameters())
    weights = load_file(checkpoint.folder / f"weights-{len(checkpoint.trial.rungs)}.safetensors")
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    objects.optimizer.load_state_dict(stored["optimizer"])
    objects.scheduler.load_state_dict(stored["scheduler"])
    if objects.accelerator.scaler is not None and stored["scaler"] is not None:
        objects.accelerator.scaler.load_state_dict(stored["scaler"])


def restore_random(checkpoint: Checkpoint) -> None:
    """Restore the random generators; call this last, directly before training continues."""
    state = checkpoint.stored["random"]
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": list(random.getstate()),
    }


def _state_file(folder: Path, count: int, process: int) -> Path:
    return folder / f"state-{count}.{process}.pt"


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
