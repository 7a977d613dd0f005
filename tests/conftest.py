"""Small pieces of the embedded demo that tests share."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.catalog import ROOT
from harness.spec.task import Task
from harness.spec.trial import TrialConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never wait for a hub
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # A core for each process of tests, and for what it starts: threads of torch that share cores spin.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

SMALL = {"train": 48, "validation": 12, "test": 12}


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory) -> Path:
    """A folder of speech as a user has it: a few of the demo's clips, spread over its voices."""
    folder = tmp_path_factory.mktemp("speech")
    source = ROOT / "harness" / "demo" / "speech"
    with (source / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for split, count in SMALL.items():
        members = [row for row in rows if row["split"] == split]
        chosen += members[:: len(members) // count][:count]
    for row in chosen:
        (folder / row["file"]).parent.mkdir(exist_ok=True)
        shutil.copy(source / row["file"], folder / row["file"])
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "language"])
        writer.writeheader()
        writer.writerows({**row, "language": "en"} for row in chosen)
    return folder


@pytest.fixture(scope="session")
def task(speech_folder) -> Task:
    return Task(name="small", folder=speech_folder, language="en")


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def context(task, cache):
    """The resident demo model over the small folder, in this process, on the CPU, where bits can be compared."""
    import torch

    from harness.spec.messages import Open
    from harness.training.orders import open_context

    torch.set_num_threads(1)  # two would spin against whatever else the machine does
    return open_context(Open(model="demo", task=task, cache_dir=str(cache), seed=1), device=torch.device("cpu"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables, which take seconds to create."""
    from harness.records.mlflow_database import create_tables

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_tables(path)
    return path


@pytest.fixture
def lora() -> TrialConfig:
    return TrialConfig(
        method="lora",
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=("q_proj", "v_proj"),
        learning_rate=3e-3,
        warmup_ratio=0.1,
        per_device_train_batch_size=8,
    )


@pytest.fixture
def small_space(tmp_path, speech_folder) -> Path:
    """A search space whose trials take about a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
description: for tests
model: demo
task: {speech_folder}
budget: {{examples: 64, rungs: [0.5, 1.0]}}
pruner: {{name: none}}
baselines: [vanilla]
fixed: {{method: lora, lora_alpha: 16, lora_dropout: 0.1, target_modules: [q_proj, v_proj], warmup_ratio: 0.1}}
sampled:
  r: {{choices: [4, 8]}}
  learning_rate: {{low: 1e-3, high: 5e-3, log: true}}
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def command(tmp_path, cache):
    """Run a root script as a user does; results go to a folder of the test."""

    def run(script: str, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, ROOT / script, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def studies(tmp_path_factory, context, speech_folder):
    """One study with a LoRA trial, and others that tests add."""
    from studies import Studies

    made = Studies(tmp_path_factory.mktemp("results"), context, speech_folder)
    config = TrialConfig(
        method="lora", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=("q_proj", "v_proj"), learning_rate=5e-3,
        per_device_train_batch_size=8,
    )  # fmt: skip
    made.add("lora", config)
    return made
