"""What the tests of a comparison share: a board as a script reads it, and a study on disk."""

import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


class Leaderboard:
    """compare.py --format json, as a script would use it."""

    def __init__(self, text: str, folder: Path) -> None:
        held = json.loads(text)
        self.systems = {row["system"]: row for row in held["systems"]}
        self.comparisons = {(c["system"], c["reference"]): c for c in held["comparisons"]}
        self.folder = folder


class Study:
    """A study on disk as run_sweep.py and a first compare.py leave it: records, and test decoded."""

    def __init__(self, results: Path, name: str = "made", test_hash: str = "t1") -> None:
        self.folder, self.hash = results / name, test_hash
        self.utterances = [
            {"id": f"u{n}", "reference": f"sentence number {n} was spoken by somebody here", "speaker": f"s{n % 8}",
             "condition": ["quiet", "noisy"][n % 2], "audio_seconds": 2.0, "dataset": "made"}
            for n in range(80)
        ]  # fmt: skip
        identity = {
            "model": "demo",
            "task": {"name": "made", "language": "sv", "normalizer": None},
            "budget": {"examples": 64, "rungs": [0.5, 1.0]},
            "space": {
                "sampler": {"name": "random"},
                "pruner": {"name": "none"},
                "fixed": {"method": "lora"},
                "sampled": {"r": {"choices": [8, 16]}, "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
            },
        }
        self._json(
            self.folder / "study.json", {"study": name, "seed": 1, "task": "made", "identity": identity, "hash": "h"}
        )

    def _json(self, path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    def run(self, place: str, kind: str, name: str, wrong: int, *, seed: int = 1, number: int | None = None, wer: float = 0.3, state: str = "complete", portion: dict | None = None) -> Path:  # fmt: skip
        """Store a run whose test transcripts lack the last word of every utterance below `wrong`, others by seed."""
        folder = self.folder / place
        scores = {"wer": wer, "wer_raw": wer, "cer": wer, "insertions": 0, "deletions": wer, "substitutions": 0,
                  "utterances": 80, "reference_words": 560, "normalizer": "none"}  # fmt: skip
        rung = {"index": 0, "step": 4, "examples": 32, "train_loss": 1.0, "loss": 1.0, "scores": scores,
                "train_seconds": 3.0, "evaluation_seconds": 1.0}  # fmt: skip
        rungs = [rung, {**rung, "index": 1, "step": 8, "examples": 64}]
        portion = portion or {}
        if portion.get("with_validation"):
            rungs = []
        config = {"method": "none"} if kind == "zero_shot" else {
            "method": "lora", "r": 8 if (number or 0) % 2 else 16, "lora_alpha": 16, "lora_dropout": 0.0,
            "target_modules": ["q_proj"], "learning_rate": 1e-4 * (1 + (number or 0))}  # fmt: skip
        cost = {"steps": 8, "examples": 64, "train_seconds": 3.0, "evaluation_seconds": 2.0, "peak_memory_bytes": 10**8,
                "memory_kind": "process_rss", "trainable_parameters": 1000, "total_parameters": 10**6,
                "adapter_bytes": 4000, "data_seconds": 7200 * portion.get("fraction", 1)}  # fmt: skip
        self._json(folder / "result.json", {
            "kind": kind, "name": name, "number": number, "seed": seed, "state": state, "config": config,
            "budget": {"examples": 64, "rungs": [0.5, 1.0]}, "portion": portion, "rungs": rungs if state == "complete" else rungs[:1],
            "cost": cost, "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00",
            "environment": {"device": "cpu", "packages": {"torch": "2"}, "commit": "c" * 40, "dirty": False},
            "data": {"train": "x", "validation": "v1", "test": self.hash}})  # fmt: skip
        lines = []
        for n, utterance in enumerate(self.utterances):
            words = utterance["reference"].split()
            lines.append(
                {**utterance, "hypothesis": " ".join(words[: -1 - n % 3] if (n * 7 + seed) % 80 < wrong else words)}
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "transcripts.jsonl").write_text(text)
        (folder / "test.jsonl").write_text(text)
        decoding = {"strategy": "greedy", "batch_size": 8, "max_new_tokens": 50}
        self._json(folder / "test.json", {"rtfx": 20.0, "decoding": decoding, "data": self.hash})
        return folder
