"""A trial's state at a rung, so that one that is interrupted goes on from there as if nothing had been.

A checkpoint/ folder holds weights-<k>.safetensors (what is trained), state-<k>.<process>.pt (optimizer, schedule,
random generators; tensors and plain values, read with weights_only) and rungs.json, the rungs so far, which is
written last and names k by its length: a crash leaves the checkpoint before or this one.
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
from torch import nn

from harness.records.files import write_json
from harness.records.study_folder import read_transcripts, write_transcripts
from harness.spec.result import Rung, Transcript
from harness.spec.trial import TrialConfig
from harness.training.loop import Progress


@dataclass(frozen=True)
class TrainingObjects:
    """What changes while a trial trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator


@dataclass(frozen=True)
class TrialState:
    """Where a trial stands after a rung: its configuration as run, and what it has to show so far."""

    config: TrialConfig
    progress: Progress
    peaks: dict[str, dict[str, int]]
    rungs: list[Rung]
    transcripts: list[Transcript]
    errors: list[int]


@dataclass(frozen=True)
class Checkpoint:
    """A stored standing, and the state that `restore` puts back."""

    folder: Path
    standing: TrialState
    state: dict[str, Any]


def save(folder: Path, trained: TrainingObjects, standing: TrialState) -> None:
    """Store the state after the last rung, then remove the one before. All processes of a trial call it."""
    folder.mkdir(exist_ok=True)
    accelerator, count = trained.accelerator, len(standing.rungs)
    state: dict[str, Any] = {"random": _random_state()}
    if accelerator.is_main_process:
        trainable = {name: p.detach().contiguous() for name, p in trained.model.named_parameters() if p.requires_grad}
        _whole(folder / f"weights-{count}.safetensors", lambda path: save_file(trainable, path))
        write_transcripts(folder / f"transcripts-{count}.jsonl", standing.transcripts)
        state |= {
            "optimizer": trained.optimizer.state_dict(),
            "scheduler": trained.scheduler.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "config": standing.config.model_dump(mode="json", exclude_none=True),
            "progress": asdict(standing.progress),
            "peaks": standing.peaks,
            "errors": standing.errors,
        }
    _whole(_state_file(folder, count, accelerator.process_index), lambda path: torch.save(state, path))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(folder / "rungs.json", [rung.model_dump(mode="json") for rung in standing.rungs])
        for path in folder.iterdir():
            if path.name != "rungs.json" and f"-{count}." not in path.name:
                path.unlink()


def load(folder: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is none, or one of another number of processes."""
    path = folder / "rungs.json"
    if not path.is_file():
        return None
    rungs = [Rung.model_validate(rung) for rung in json.loads(path.read_text(encoding="utf-8"))]
    own, first = (_state_file(folder, len(rungs), number) for number in (accelerator.process_index, 0))
    if len(list(folder.glob(f"state-{len(rungs)}.*.pt"))) != accelerator.num_processes:
        return None
    state = torch.load(first, map_location="cpu", weights_only=True)
    state["random"] = torch.load(own, map_location="cpu", weights_only=True)["random"]
    standing = TrialState(
        config=TrialConfig.model_validate(state["config"]),
        progress=Progress(**state["progress"]),
        peaks=state["peaks"],
        rungs=rungs,
        transcripts=read_transcripts(folder / f"transcripts-{len(rungs)}.jsonl"),
        errors=state["errors"],
    )
    return Checkpoint(folder, standing, state)


def adopt(source: Path, folder: Path) -> None:
    """Take another attempt's checkpoint over, whole or not at all."""
    if source.resolve() != folder.resolve() and source.is_dir() and not folder.exists():
        partial = folder.with_name(".checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        os.replace(partial, folder)


def restore(checkpoint: Checkpoint, trained: TrainingObjects) -> None:
    """Put weights, optimizer, schedule and loss scale back."""
    state, parameters = checkpoint.state, dict(trained.model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(
            checkpoint.folder / f"weights-{len(checkpoint.standing.rungs)}.safetensors"
        ).items():
            parameters[name].copy_(value)
    trained.optimizer.load_state_dict(state["optimizer"])
    trained.scheduler.load_state_dict(state["scheduler"])
    if trained.accelerator.scaler is not None and state["scaler"] is not None:
        trained.accelerator.scaler.load_state_dict(state["scaler"])


def restore_random(checkpoint: Checkpoint) -> None:
    """Put the random generators back: the last thing before training goes on."""
    state = checkpoint.state["random"]
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


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, then give it its own."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
