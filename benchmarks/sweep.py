"""How fast a sweep is: the same trials by the plain recipe, by one process that reloads its base, and by the harness.

    python -m benchmarks.sweep                                  # the demo, two scopes, three rounds
    python -m benchmarks.sweep --task FOLDER --examples 2400    # other speech
    python -m benchmarks.sweep --ablate                         # each technique left out too
    python -m benchmarks.sweep --model random-small             # on a GPU: whisper-small's sizes, random weights
    python -m benchmarks.sweep --model random-toy --rounds 1    # on a CPU, to see that it runs

Arms: `plain` is benchmarks/plain.py, one process a trial, as the tutorials write it; `reload` is the harness's own loop
in one process that loads its base anew for each trial and keeps nothing of the encoder; `harness` is run_sweep.py,
all of it; `no encoder_cache` and the others of its kind leave that one technique out, `compile` takes it on (--ablate).
Every arm trains the same configurations, a grid of rank and learning rate, on the same examples in the same order for
the same steps, and decodes validation once at the end; each begins with empty caches. Rounds are interleaved and their
order rotated; medians are printed.

The gate: `reload`, `harness` and `no encoder_cache` must agree in every loss, to the last bit on a CPU in fp32, and in
every transcript; the other techniques round elsewhere. `plain` divides its loss and draws its dropout elsewhere, and
`compile` draws it elsewhere, so that they agree only about.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperProcessor

from benchmarks.gpu_trial import matmul_rate, random_model
from harness import catalog
from harness.bench import Bench, score_split
from harness.catalog import ROOT
from harness.evaluate import Heard, transcript
from harness.parameters import OFFICIAL, POSITIONS_PER_SECOND, Dimensions
from harness.record import read_transcripts
from harness.spec.budget import Budget
from harness.spec.messages import Open, Train
from harness.spec.task import Task
from harness.spec.techniques import STANDARD
from harness.spec.trial import TrialConfig
from harness.trainer import open_bench
from harness.trial import run_trial

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
SECONDS_BETWEEN_LOOKS = 0.5
ROUNDING = 1e-5  # of a loss
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

    def bench(self, folder: Path) -> Bench:
        """Model and data, with the caches in a folder, but none of encoder states."""
        bare = tuple(name for name in STANDARD if name != "encoder_cache")
        return open_bench(Open(model=self.model, task=self.speech(), cache_dir=str(folder), seed=SEED, techniques=bare))

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
    bench = job.bench(job.folder / "listing")  # lists the clips; not in the arm's time
    speech, found = bench.speech, dict[tuple[int, float], Trial]()
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
            "max_new_tokens": bench.decoding.max_new_tokens,
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
        heard = [transcript(speech, row, Heard(text=text)) for row, text in zip(rows, answer["texts"], strict=True)]
        found[_point(config)] = Trial(answer["loss"], score_split(bench, heard).wer, answer["texts"])
    return found


def reload(job: Job, folder: Path) -> dict[tuple[int, float], Trial]:
    """One process that runs the harness's own trials, each on a base loaded for it."""
    given = dataclasses.asdict(job) | {"folder": str(folder)}
    (folder / "job.json").write_text(json.dumps(given), encoding="utf-8")
    _run([sys.executable, "-m", "benchmarks.sweep", "--inside", str(folder / "job.json")])
    return {_point(config): _read(folder / str(number)) for number, config in enumerate(job.configurations())}


def inside(job: Job) -> None:
    """The work of `reload`, in its process."""
    for number, config in enumerate(job.configurations()):
        attempt = job.folder / str(number)
        attempt.mkdir()
        order = Train(
            config=config, budget=Budget(examples=job.examples, rungs=(1.0,)), seed=SEED, attempt=str(attempt)
        )
        trial = run_trial(job.bench(job.folder / "cache"), order)
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


USUAL = ["plain", "reload", "harness", "no encoder_cache"]
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


@contextmanager
def memory_watched() -> Iterator[list[int]]:
    """Bytes of all processes below this one, at each look; what several of them map counts once (PSS)."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            seen.append(sum(map(_resident, psutil.Process().children(recursive=True))))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def measure(arm: Arm, job: Job) -> dict[str, Any]:
    """One arm once, with empty caches: wall and CPU seconds and peak memory of all its processes, and its trials."""
    job.bench(job.folder / "listing")  # what the driver itself needs is there before the clock starts
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        cpu, began = _child_seconds(), time.perf_counter()
        with memory_watched() as seen:
            trials = arm(job, Path(folder))
        wall, cpu = time.perf_counter() - began, _child_seconds() - cpu
        return {"wall": wall, "cpu": cpu, "memory": max(seen), "trials": trials}


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Whether each arm's losses and transcripts are those of `reload`; how far the plain recipe's are."""
    said = dict[str, str]()
    truth = rounds["reload"][0]["trials"]
    for name, runs in rounds.items():
        pairs = [(run["trials"][point], trial) for run in runs for point, trial in truth.items()]
        losses = max(abs(a.loss / b.loss - 1) for a, b in pairs)
        if all((a.loss, a.texts) == (b.loss, b.texts) for a, b in pairs):
            said[name] = "equal"
        elif losses < ROUNDING and all(a.texts == b.texts for a, b in pairs):
            said[name] = "to rounding"
        else:
            rates = max(abs(a.wer - b.wer) for a, b in pairs)
            said[name] = f"loss {losses:.1%}, WER {100 * rates:.1f} points"
    return said


def summary(name: str, runs: Sequence[dict[str, Any]], base: dict[str, float], rate: float) -> dict[str, Any]:
    """Medians of an arm, and the ratios to the plain recipe."""
    wall, cpu = (statistics.median(run[kind] for run in runs) for kind in ("wall", "cpu"))
    row: dict[str, Any] = {"arm": name, "wall": wall, "cpu": cpu, "trials": len(runs[0]["trials"])}
    row["memory"] = max(run["memory"] for run in runs)
    row |= {"wall_ratio": base["wall"] / wall, "cpu_ratio": base["cpu"] / cpu}
    if name != "plain":
        seen = [trial for run in runs for trial in run["trials"].values()]
        trained = statistics.median(sum(trial.train_seconds for trial in run["trials"].values()) for run in runs)
        judged = statistics.median(sum(trial.evaluation_seconds for trial in run["trials"].values()) for run in runs)
        share = statistics.median(trial.flops / trial.train_seconds / rate for trial in seen)
        row |= {"train": trained, "evaluation": judged, "rest": wall - trained - judged, "matmul_share": share}
    return row


def show(scope: str, rows: list[dict[str, Any]], gate: dict[str, str], console: Console) -> None:
    """The table of one scope."""
    table = Table(title=f"LoRA in {'encoder and decoder' if scope == 'both' else 'the decoder'}, seconds", box=None)
    for column in ("arm", "wall", "CPU", "train", "evaluate", "rest", "of matmul rate", "GB", "faster", "results"):
        table.add_column(column, justify="left" if column in ("arm", "results") else "right", no_wrap=True)
    for row in rows:
        known = "train" in row
        parts = [f"{row[key]:.1f}" if known else "" for key in ("train", "evaluation", "rest")]
        share = f"{row['matmul_share']:.0%}" if known else ""
        memory = f"{row['memory'] / 1e9:.2f}"
        times = f"{row['wall_ratio']:.2f}x wall, {row['cpu_ratio']:.2f}x CPU"
        seconds = [f"{row[key]:.1f}" for key in ("wall", "cpu")]
        table.add_row(row["arm"], *seconds, *parts, share, memory, times, gate[row["arm"]])
    console.print(table)


def main() -> None:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a name, a folder, or " + ", ".join(RANDOM))
    parser.add_argument("--task", default="demo")
    parser.add_argument("--examples", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scopes", nargs="+", choices=("both", "decoder"), default=["both", "decoder"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=USUAL)
    parser.add_argument("--ablate", action="store_true", help="all arms")
    parser.add_argument("--grid", choices=GRIDS, default="four")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    arms = list(ARMS) if options.ablate else options.arms
    if options.inside is not None:
        given = json.loads(options.inside.read_text(encoding="utf-8"))
        inside(Job(**given | {"folder": Path(given["folder"])}))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = matmul_rate(device, "bf16" if device.type == "cuda" else "fp32")
    console, results = Console(width=140), list[dict[str, Any]]()
    console.print(f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s of large products on {device.type}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made(options.model, folder / "model") if options.model in RANDOM else options.model
        for scope in options.scopes:
            job = Job(model, options.task, scope, options.examples, options.grid, folder)
            rounds: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
            for number in range(options.rounds):
                turn = number % len(arms)
                for arm in arms[turn:] + arms[:turn]:
                    rounds[arm].append(measure(ARMS[arm], job))
                    console.print(f"  {scope}, round {number + 1}, {arm}: {rounds[arm][-1]['wall']:.1f} s")
            base = {kind: statistics.median(run[kind] for run in rounds[arms[0]]) for kind in ("wall", "cpu")}
            rows = [summary(arm, runs, base, rate) for arm, runs in rounds.items()]
            gate = check(rounds) if "reload" in rounds else dict.fromkeys(rounds, "")
            show(scope, rows, gate, console)
            results += [row | {"scope": scope, "results": gate[row["arm"]]} for row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps({"matmul_flops": rate, "rows": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
