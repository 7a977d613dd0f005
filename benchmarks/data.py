"""How long preparing 1,000 clips takes, against datasets.map with the tutorials' function for one clip at a time.

    python -m benchmarks.data [--clips 1000] [--seconds 4] [--repeat 3]

Both arms read the same flac files (44.1 kHz, stereo) and end with log-mel features of 30 s windows for every clip on
disk. The arms take turns in one run and the medians count. The second figure is what a study's second run spends on
data: listing, checking and opening the cache.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperTokenizer

from harness.catalog import model_location
from harness.data.labels import label_ids
from harness.data.store.prepare import Speech, prepare
from harness.spec.task import Task


def make_clips(folder: Path, count: int, seconds: float) -> None:
    """Noise with a melody, of lengths around `seconds`, as flac of 44.1 kHz in stereo."""
    generator, lines = np.random.default_rng(0), ["file,text,speaker,split"]
    for number in range(count):
        length = round(44_100 * seconds * generator.uniform(0.5, 1.5))
        time_axis = np.arange(length) / 44_100
        wave = 0.3 * np.sin(2 * np.pi * (200 + number % 300) * time_axis) + 0.05 * generator.standard_normal(length)
        soundfile.write(folder / f"{number:05d}.flac", np.stack([wave, 0.8 * wave], axis=1), 44_100)
        split = ("test", "validation")[number % 20] if number % 20 < 2 else "train"
        lines.append(f"{number:05d}.flac,turn on the light in the kitchen number {number},s{number % 40},{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def ours(task: Task, extractor: WhisperFeatureExtractor, tokenizer: WhisperTokenizer, cache: Path) -> Speech:
    """The harness's preparation."""
    generation = GenerationConfig.from_pretrained(model_location("demo"))

    def label_length(text: str, language: str) -> int:
        return len(label_ids(tokenizer, generation, text, language, "transcribe"))

    return prepare(task, extractor, label_length, 448, cache)


def tutorial(
    folder: Path, extractor: WhisperFeatureExtractor, tokenizer: WhisperTokenizer, cache: Path, processes: int
) -> None:
    """prepare_dataset of the fine-tuning tutorials, one clip at a time, by datasets.map; decoded with soundfile."""
    from datasets import Dataset

    rows = [line.split(",") for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()[1:]]
    dataset = Dataset.from_dict({"file": [str(folder / row[0]) for row in rows], "sentence": [row[1] for row in rows]})

    if processes > 1:
        torch.set_num_threads(1)  # a forked process that computes with several threads waits for ever

    def prepare_dataset(batch: dict[str, Any]) -> dict[str, Any]:
        samples, rate = soundfile.read(batch["file"], dtype="float32", always_2d=True)
        audio = soxr.resample(samples.mean(axis=1), rate, 16_000)
        batch["input_features"] = extractor(audio, sampling_rate=16_000).input_features[0]
        batch["labels"] = tokenizer(batch["sentence"]).input_ids
        return batch

    dataset.map(
        prepare_dataset,
        remove_columns=["file", "sentence"],
        num_proc=processes if processes > 1 else None,
        cache_file_name=str(cache / "tutorial.arrow"),
    )
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds (of this process and its children)."""
    wall, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0, help="mean length of a clip")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="num_proc of the tutorial's arms")
    options = parser.parse_args()
    extractor = WhisperFeatureExtractor(feature_size=80)
    tokenizer = WhisperTokenizer.from_pretrained(model_location("demo"))
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        speech = Path(place) / "speech"
        speech.mkdir()
        make_clips(speech, options.clips, options.seconds)
        task = Task.parse({"name": "benchmark", "language": "en", "folder": speech}, "benchmark")
        for turn in range(options.repeat):
            cache = Path(place) / f"cache{turn}"
            cache.mkdir()
            arms: list[tuple[str, Callable[[], object]]] = [
                ("harness", lambda cache=cache: ours(task, extractor, tokenizer, cache)),
                *(
                    (f"map_{n}", lambda n=n, cache=cache: tutorial(speech, extractor, tokenizer, cache, n))
                    for n in options.processes
                ),
            ]
            for name, call in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
                times.setdefault(name, []).append(timed(call))
                (cache / "tutorial.arrow").unlink(missing_ok=True)
                for part in cache.glob("tutorial_*"):
                    part.unlink()
            times.setdefault("second_run", []).append(
                timed(lambda cache=cache: ours(task, extractor, tokenizer, cache))
            )
    wall = {name: round(statistics.median(w for w, _ in all_of), 3) for name, all_of in times.items()}
    cpu = {name: round(statistics.median(c for _, c in all_of), 3) for name, all_of in times.items()}
    best = min(value for name, value in wall.items() if name.startswith("map_"))
    result = {
        "clips": options.clips,
        "mean_seconds": options.seconds,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "ratio_to_map_1": round(wall["map_1"] / wall["harness"], 2) if "map_1" in wall else None,
        "ratio_to_fastest_map": round(best / wall["harness"], 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
