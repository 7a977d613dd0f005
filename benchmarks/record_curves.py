"""Train each configuration of a small grid to the end and keep its learning curve: the tables of benchmarks/search.py.

    python -m benchmarks.record_curves one          # -> benchmarks/tables/one.json.gz; under an hour on one core
    python -m benchmarks.record_curves two

The two tables have nothing in common: other voices in training and in validation (all from the demo's speech; its test
split is left alone), another seed, other configurations. A table keeps, for every configuration and rung, the errors
of each validation utterance, the teacher-forced loss and the seconds. A second call trains only what is missing.
"""

import argparse
import csv
import gzip
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.catalog import ROOT
from harness.plan import CACHE_DIR
from harness.spec.budget import Budget
from harness.spec.messages import Open, Train
from harness.spec.task import Task
from harness.spec.trial import ALL_LINEAR, TrialConfig
from harness.training.context import TrainerContext
from harness.training.orders import open_context
from harness.training.trial import run_trial

TABLES = ROOT / "benchmarks" / "tables"
SPEECH = ROOT / "harness" / "demo" / "speech"
RUNGS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
BUDGET = Budget(examples=512, rungs=RUNGS)
TARGETS: dict[str, tuple[str, ...]] = {"q,v": ("q_proj", "v_proj"), "all": ALL_LINEAR}
# Learning rates from far too low to too high, those of one table between the other's.
GRIDS: dict[str, dict[str, list[Any]]] = {
    "one": {
        "learning_rate": [1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2],
        "r": [1, 8, 64],
        "target_modules": list(TARGETS),
    },
    "two": {
        "learning_rate": [2e-5, 1.5e-4, 5e-4, 1.4e-3, 2.8e-3, 5.6e-3, 1.1e-2],
        "r": [2, 16, 48],
        "target_modules": list(TARGETS),
    },
}
SEEDS = {"one": 1, "two": 2}
CLIPS_OF_A_VOICE = 10  # in validation


def voices(table: str, rows: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """(training voices, validation voices) of a table."""
    found = {
        split: sorted({row["voice"] for row in rows if row["split"] == split}) for split in ("train", "validation")
    }
    train = found["train"]
    return (train[:16], found["validation"]) if table == "one" else (train[16:32], train[32:])


def make_folder(table: str, folder: Path) -> Task:
    """The table's speech as a folder with metadata.csv."""
    with (SPEECH / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    train, validation = voices(table, rows)
    chosen: list[dict[str, str]] = [{**row, "split": "train"} for row in rows if row["voice"] in train]
    for voice in validation:
        chosen += [{**row, "split": "validation"} for row in rows if row["voice"] == voice][:CLIPS_OF_A_VOICE]
    for row in chosen:
        (folder / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["file"]).hardlink_to(SPEECH / row["file"])
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    what = {"name": f"curves_{table}", "folder": folder, "language": "en", "columns": {"speaker": "voice"}}
    return Task.parse(what, table)


def points(table: str) -> Iterator[dict[str, Any]]:
    """The grid's configurations in an order that covers it evenly from the start."""
    grid = GRIDS[table]
    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    step = 19  # prime to the number of configurations
    yield from (every[i * step % len(every)] for i in range(len(every)))


def configuration(point: dict[str, Any]) -> TrialConfig:
    """What the demo's space fixes, with a point of the grid."""
    return TrialConfig.parse(
        {
            "method": "lora",
            "alpha_over_r": 2.0,
            "lora_dropout": 0.05,
            "warmup_ratio": 0.1,
            "per_device_train_batch_size": 4,
            **point,
            "target_modules": TARGETS[point["target_modules"]],
        },
        "a point of the grid",
    )


def curve(context: TrainerContext, point: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train one configuration to the end."""
    order = Train(config=configuration(point), budget=BUDGET, seed=seed, attempt=str(folder))
    trial = run_trial(context, order)
    reports, go_on = [], None
    while True:
        try:
            reports.append(trial.send(go_on))
        except StopIteration as end:
            ended = end.value
            break
        go_on = True
    return {
        "point": point,
        "state": ended.state,
        "reason": ended.reason,
        "loss": [round(report.rung.loss, 4) for report in reports],
        "errors": [report.errors for report in reports],
        "train_seconds": [round(report.rung.train_seconds, 2) for report in reports],
        "evaluation_seconds": [round(report.rung.evaluation_seconds, 2) for report in reports],
        "words": reports[0].rung.scores.reference_words if reports else None,
    }


def read(table: str) -> dict[str, Any]:
    """A table, or an empty one."""
    path = TABLES / f"{table}.json.gz"
    if not path.is_file():
        return {"rungs": RUNGS, "examples": BUDGET.examples, "seed": SEEDS[table], "grid": GRIDS[table], "curves": []}
    stored: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return stored


def main() -> None:
    """Record what is missing of a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("table", choices=list(GRIDS))
    table = options.parse_args().table
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # a diverged model computes in denormals, a hundred times slower
    TABLES.mkdir(exist_ok=True)
    stored = read(table)
    done = [curve["point"] for curve in stored["curves"]]
    # Beside the demo's speech, because hard links do not cross file systems.
    with tempfile.TemporaryDirectory(dir=SPEECH.parent) as folder:
        task = make_folder(table, Path(folder) / "speech")
        context = open_context(Open(model="demo", task=task, cache_dir=str(CACHE_DIR), seed=SEEDS[table]))
        for number, point in enumerate(points(table)):
            if point in done:
                continue
            found = curve(context, point, SEEDS[table], Path(folder))
            stored["curves"].append(found)
            (TABLES / f"{table}.json.gz").write_bytes(gzip.compress(json.dumps(stored).encode(), mtime=0))
            wers = [round(100 * sum(errors) / found["words"], 1) for errors in found["errors"]]
            seconds = (found["train_seconds"] or [0])[-1], sum(found["evaluation_seconds"])
            print(number, point, wers, seconds, found["reason"] or "", flush=True)


if __name__ == "__main__":
    main()
