import json

import pytest

from harness.records.files import write_json


@pytest.fixture
def leaderboard(studies):
    """Write a row of the LoRA study's leaderboard.json, as compare.py does."""

    def write(system: str, wer: float, **fields) -> None:
        path = studies.results / "lora" / "comparison" / "leaderboard.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        row = {"system": system, "kind": "trial", "wer": wer, "ci_low": None, "ci_high": None, "cer": 0.1,
               "difference": None, "difference_low": None, "difference_high": None, "normalizer": "english (1)",
               "decoding": "greedy", **fields}  # fmt: skip
        write_json(path, [*rows, row])

    return write
