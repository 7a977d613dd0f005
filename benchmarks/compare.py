"""How long a comparison takes: 20 systems x 10,000 utterances x 5 seeds, and a study of 1,000 trials.

    python benchmarks/compare.py [--systems 20] [--utterances 10000] [--seeds 5] [--trials 1000]

The studies are made up and written to a temporary folder; the commands are those of a user.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"word{n}" for n in range(2000)]
SCORES = {
    "wer": 0.2, "wer_raw": 0.2, "cer": 0.1, "insertions": 0.0, "deletions": 0.1, "substitutions": 0.1,
    "utterances": 1, "reference_words": 1, "normalizer": "none",
}  # fmt: skip
COST = {
    "steps": 100, "examples": 1600, "train_seconds": 60.0, "evaluation_seconds": 10.0, "peak_memory_bytes": 10**9,
    "memory_kind": "cuda_reserved", "trainable_parameters": 10**6, "total_parameters": 10**8, "adapter_bytes": 10**6,
}  # fmt: skip
IDENTITY = {
    "model": "demo",
    "task": {"name": "made", "language": "sv", "normalizer": None},
    "budget": {"examples": 1600, "rungs": [0.25, 0.5, 1.0]},
    "space": {
        "sampler": {"name": "tpe", "n_startup_trials": 10},
        "pruner": {"name": "successive_halving"},
        "fixed": {"method": "lora"},
        "sampled": {"r": {"choices": [8, 16, 32]}, "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
    },
}


def write_json(path: Path, value: object) -> None:
    """Plain JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_record(folder: Path, kind: str, name: str, seed: int, number: int | None, draw: random.Random) -> None:
    """One run's result.json."""
    wer = draw.uniform(0.1, 0.4)
    rungs = [
        {"index": i, "step": 25 * 2**i, "examples": 400 * 2**i, "train_loss": 1.0, "loss": 1.0,
         "scores": {**SCORES, "wer": wer + 0.1 * (2 - i)}, "train_seconds": 15.0 * 2**i, "evaluation_seconds": 3.0}
        for i in range(3)
    ]  # fmt: skip
    config: dict[str, object] = {"method": "none"}
    if kind != "zero_shot":
        config = {"method": "lora", "r": draw.choice([8, 16, 32]), "lora_alpha": 16, "lora_dropout": 0.0,
                  "target_modules": ["q_proj"], "learning_rate": 10 ** draw.uniform(-5, -2)}  # fmt: skip
    write_json(
        folder / "result.json",
        {
            "kind": kind, "name": name, "number": number, "seed": seed, "state": "complete", "config": config,
            "budget": IDENTITY["budget"], "rungs": rungs, "cost": COST, "started": "2026-01-01T00:00:00+00:00",
            "ended": "2026-01-01T00:02:00+00:00", "environment": {"device": "cuda", "commit": "0" * 40, "dirty": False},
            "data": {"train": "a", "validation": "b", "test": "c"},
        },
    )  # fmt: skip


def write_test(folder: Path, references: list[str], rate: float, draw: random.Random) -> None:
    """Transcripts in which each word is wrong with a probability."""
    with (folder / "test.jsonl").open("w") as file:
        for n, reference in enumerate(references):
            words = [draw.choice(WORDS) if draw.random() < rate else word for word in reference.split()]
            line = {"id": f"u{n}", "reference": reference, "hypothesis": " ".join(words), "audio_seconds": 4.0}
            file.write(json.dumps({**line, "speaker": f"s{n % 200}"}) + "\n")
    write_json(folder / "test.json", {"rtfx": 50.0, "decoding": {"strategy": "greedy", "max_new_tokens": 100}})


def make_large(results: Path, systems: int, utterances: int, seeds: int) -> None:
    """Zero-shot, four recipes, and tuned configurations, all trained ones with several seeds."""
    draw = random.Random(1)
    study = results / "large"
    write_json(study / "study.json", {"study": "large", "seed": 1, "task": "made", "identity": IDENTITY, "hash": "h"})
    references = [" ".join(draw.choices(WORDS, k=draw.randint(6, 18))) for _ in range(utterances)]
    for place in range(systems):
        rate = 0.1 + 0.01 * place
        kind, key = ("zero_shot" if place == 0 else "recipe", f"b{place}") if place < 5 else ("trial", str(place))
        name = f"trial {place}" if kind == "trial" else key
        number = place if kind == "trial" else None
        first = study / (f"trials/{place}" if kind == "trial" else f"baselines/{key}/1")
        write_record(first, kind, name, 1, number, draw)
        write_test(first, references, rate, draw)
        for seed in range(11, 11 + seeds) if kind != "zero_shot" else ():
            again = study / "replicates" / key / str(seed)
            write_record(again, "replicate", name, seed, number, draw)
            write_test(again, references, rate, draw)


def make_long(results: Path, trials: int) -> None:
    """A study of many trials, of which one is decoded."""
    draw = random.Random(2)
    study = results / "long"
    write_json(study / "study.json", {"study": "long", "seed": 1, "task": "made", "identity": IDENTITY, "hash": "h"})
    references = [" ".join(draw.choices(WORDS, k=10)) for _ in range(500)]
    write_record(study / "baselines/vanilla/1", "zero_shot", "vanilla", 1, None, draw)
    write_test(study / "baselines/vanilla/1", references, 0.4, draw)
    for number in range(trials):
        write_record(study / f"trials/{number}", "trial", f"trial {number}", 1, number, draw)
        write_test(study / f"trials/{number}", references, 0.2, draw)


def timed(label: str, results: Path, *arguments: str) -> None:
    """Run compare.py and print what it took."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "compare.py"), "--results", str(results), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print(f"{label}: {time.perf_counter() - began:.1f} s", flush=True)


def main() -> None:
    """Make the studies, then time."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("systems", 20), ("utterances", 10_000), ("seeds", 5), ("trials", 1000)):
        options.add_argument(f"--{name}", type=int, default=default)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        make_large(results, given.systems, given.utterances, given.seeds)
        make_long(results, given.trials)
        large = f"{given.systems} systems x {given.utterances} utterances x {given.seeds} seeds"
        timed(f"{large}, cold", results, "--study", "large", "--top", "1000", "--no-figures")
        timed(f"{large}, from kept counts", results, "--study", "large", "--top", "1000", "--no-figures")
        timed(f"{given.trials} trials, leaderboard", results, "--study", "long", "--no-figures")
        timed(f"{given.trials} trials, with figures and report", results, "--study", "long")


if __name__ == "__main__":
    main()
