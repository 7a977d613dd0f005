"""The arms of benchmarks/sweep.py: the same trials by the plain recipe, by one process that reloads, by the harness.

Each is called with a job and an empty folder, and returns what came of each configuration. Run as a program, with a
job's file, this is the process of the arm that reloads.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperProcessor

from benchmarks.gpu_trial import random_model
from harness import catalog
from harness.catalog import ROOT
from harness.evaluation.decoding import make_transcript
from harness.evaluation.generation import DecodedUtterance
from harness.model_size.parameters import OFFICIAL, POSITIONS_PER_SECOND, Dimensions
from harness.records.study_folder import read_transcripts
from harness.spec.budget import Budget
from harness.spec.messages import Open, Train
from harness.spec.task import Task
from harness.spec.techniques import STANDARD
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext, score_split
from harness.training.orders import open_context
from harness.training.trial import run_trial

GRIDS: dict[str, dict[str, list[Any]]] = {
    "four": {"r": [8, 16], "learning_rate": [1e-3, 3e-3]},
    "twelve": {"r": [4, 8, 16], "learning_rate": [5e-4, 1e-3, 2e-3, 4e-3]},
    "small": {"r": [8], "learning_rate": [1e-3]},
}
FIXED = {
    "method": "lora",
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "v_proj"],
    "warmup_steps": 5,
}
BATCH = 16
SEED = 1
# Sizes of models with random weights; the vocabulary is at least the demo's, whose tokenizer they take.
RANDOM = {
    "random-toy": Dimensions(64, 2, 2, 128, 128, 2120, max_source_positions=150, max_target_positions=64),
    "random-small": OFFICIAL["openai/whisper-small"],
}


@dataclass(frozen=True)
class Job:
    """What every arm is given."""

    model: str
    task: str
    scope: str
    examples: int
    grid: str
    folder: Path

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that all trials share."""
        precision = "bf16" if torch.cuda.is_available() else "fp32"
        return FIXED | {"scope": self.scope, "per_device_train_batch_size": BATCH, "precision": precision}

    def configurations(self) -> list[TrialConfig]:
        """The grid."""
        points = GRIDS[self.grid]
        grid = [{"r": r, "learning_rate": rate} for r in points["r"] for rate in points["learning_rate"]]
        return [TrialConfig.model_validate(self.fixed | point) for point in grid]

    def context(self, folder: Path) -> TrainerContext:
        """Model and data, with the caches in a folder, but none of encoder states."""
        bare = tuple(name for name in STANDARD if name != "encoder_cache")
        return open_context(
            Open(model=self.model, task=self.speech(), cache_dir=str(folder), seed=SEED, techniques=bare)
        )

    def speech(self) -> Task:
        """The task."""
        return catalog.task(self.task)


@dataclass(frozen=True)
class Trial:
    """What came of one configuration, in the seconds of its own training and evaluation where the arm knows them."""

    loss: float
    wer: float
    texts: list[str]
    train_seconds: float | None = None
    evaluation_seconds: float | None = None
    flops: float | None = None


Arm = Callable[[Job, Path], dict[tuple[int, float], Trial]]


def plain(job: Job, folder: Path) -> dict[tuple[int, float], Trial]:
    """One process of benchmarks/plain.py for each configuration."""
    context = job.context(job.folder / "listing")  # lists the clips; not in the arm's time
    speech, found = context.speech, dict[tuple[int, float], Trial]()
    clips = {
        split: [
            {"path": str(speech.path(speech.utterances[row])), "text": speech.utterances[row].text}
            for row in speech.rows(split)
        ]
        for split in ("train", "validation")
    }
    for config in job.configurations():
        half = {"decoder": "decoder", "both": "(encoder|decoder)"}[job.scope]
        modules = "|".join(config.target_modules or ())
        given = {
            "model": str(catalog.model_location(job.model)),
            "language": speech.utterances[0].language,
            "seed": SEED,
            "order_seed": SEED,
            "batch_size": BATCH,
            "steps": -(-job.examples // BATCH),
            "learning_rate": config.learning_rate,
            "warmup_steps": config.warmup_steps,
            "max_new_tokens": context.decoding.max_new_tokens,
            "lora": {
                "r": config.r,
                "lora_alpha": config.lora_alpha,
                "lora_dropout": config.lora_dropout,
                "target_modules": rf".*\.{half}\.layers\.\d+\.(\w+\.)?({modules})",
            },
            "folder": str(folder / "weights"),
            "output": str(folder / "found.json"),
            **clips,
        }
        (folder / "job.json").write_text(json.dumps(given), encoding="utf-8")
        _run([sys.executable, "-m", "benchmarks.plain", str(folder / "job.json")], HF_DATASETS_CACHE=str(folder))
        answer = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        rows = speech.rows("validation")
        heard = [
            make_transcript(speech, row, DecodedUtterance(text=text))
            for row, text in zip(rows, answer["texts"], strict=True)
        ]
        found[_point(config)] = Trial(answer["loss"], score_split(context, heard).wer, answer["texts"])
    return found


def reload(job: Job, folder: Path) -> dict[tuple[int, float], Trial]:
    """One process that runs the harness's own trials, each on a base loaded for it."""
    given = dataclasses.asdict(job) | {"folder": str(folder)}
    (folder / "job.json").write_text(json.dumps(given), encoding="utf-8")
    _run([sys.executable, "-m", "benchmarks.arms", str(folder / "job.json")])
    return {_point(config): _read(folder / str(number)) for number, config in enumerate(job.configurations())}


def inside(job: Job) -> None:
    """The work of `reload`, in its process."""
    for number, config in enumerate(job.configurations()):
        attempt = job.folder / str(number)
        attempt.mkdir()
        order = Train(
            config=config, budget=Budget(examples=job.examples, rungs=(1.0,)), seed=SEED, attempt=str(attempt)
        )
        trial = run_trial(job.context(job.folder / "cache"), order)
        try:
            while True:
                next(trial)
        except StopIteration as end:
            (attempt / "result.json").write_text(end.value.result.model_dump_json(), encoding="utf-8")


def harness(job: Job, folder: Path, *options: str) -> dict[tuple[int, float], Trial]:
    """run_sweep.py over the grid."""
    space = {
        "description": "for benchmarks/sweep.py",
        "model": job.model,
        "task": job.task,
        "budget": {"examples": job.examples, "rungs": [1.0]},
        "sampler": {"name": "grid"},
        "pruner": {"name": "none"},
        "baselines": [],
        "fixed": job.fixed,
        "sampled": {name: {"choices": values} for name, values in GRIDS[job.grid].items()},
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    arguments = ["--space", "grid.yaml", "--trials", str(len(job.configurations())), "--seed", str(SEED), *options]
    arguments += ["--study", "grid", "--cache-dir", str(folder / "cache")]
    _run([sys.executable, str(ROOT / "run_sweep.py"), *arguments], cwd=folder)
    found = {}
    for path in (folder / "results" / "grid" / "trials").iterdir():
        config = TrialConfig.model_validate(json.loads((path / "result.json").read_text(encoding="utf-8"))["config"])
        found[_point(config)] = _read(path)
    return found


def harness_with(*options: str) -> Arm:
    """The harness with options of its own."""
    return lambda job, folder: harness(job, folder, *options)


ARMS: dict[str, Arm] = {
    "plain": plain,
    "reload": reload,
    "harness": harness,
    **{f"no {technique}": harness_with("--without", technique) for technique in STANDARD},
    "compile": harness_with("--compile"),
}


def made(name: str, folder: Path) -> str:
    """A model with random weights, features of its own window, and the demo's tokens."""
    dims, demo = RANDOM[name], catalog.model_location("demo")
    window = dims.max_source_positions // POSITIONS_PER_SECOND
    random_model(dims, folder)
    sizes, tokens = WhisperConfig.from_pretrained(folder), WhisperConfig.from_pretrained(demo)
    for token in ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(sizes, token, getattr(tokens, token))
    sizes.save_pretrained(folder)
    GenerationConfig.from_pretrained(demo, max_length=dims.max_target_positions).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=dims.num_mel_bins, chunk_length=window)
    WhisperProcessor(extractor, WhisperProcessor.from_pretrained(folder).tokenizer).save_pretrained(folder)
    return str(folder)


def _point(config: TrialConfig) -> tuple[int, float]:
    assert config.r is not None
    return config.r, config.learning_rate


def _read(folder: Path) -> Trial:
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    rung, cost = record["rungs"][-1], record["cost"]
    texts = [said.hypothesis for said in read_transcripts(folder / "transcripts.jsonl")]
    times = cost["train_seconds"], rung["evaluation_seconds"]
    return Trial(rung["loss"], rung["scores"]["wer"], texts, *times, cost["train_flops"])


def _run(command: list[str], cwd: Path = ROOT, **variables: str) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false", **variables)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    inside(Job(**given | {"folder": Path(given["folder"])}))
