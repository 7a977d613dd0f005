"""Packed trials through the command line: they find what trials alone find, even where their trainer is killed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from test_kill import trainer_of, wait_for

from harness.catalog import ROOT

TRIALS = 4


@pytest.fixture
def space(small_space):
    small_space.write_text(small_space.read_text() + "\nsampler: {name: random}\n")  # which learns nothing on the way
    return small_space


def found(folder) -> dict[str, list]:
    """Errors and losses of the complete trials, by what was tried."""
    records = [json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")]
    return {
        json.dumps(r["config"], sort_keys=True): [(g["scores"]["wer"], g["loss"]) for g in r["rungs"]]
        for r in records
        if r["state"] == "complete"
    }


@pytest.mark.slow
def test_a_packed_sweep_whose_trainer_is_killed_finds_what_trials_alone_find(space, cache, tmp_path, command):
    arguments = ["--space", space, "--trials", str(TRIALS), "--cache-dir", cache]
    command("run_sweep.py", *arguments, "--study", "alone", "--pack", "off")
    process = subprocess.Popen(
        [sys.executable, ROOT / "run_sweep.py", *arguments, "--study", "packed", "--pack", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(process, "  trial 1: step 4 ")
    os.kill(trainer_of(process).pid, signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "runs trained in one pass with others" in output
    results = tmp_path / "results"
    alone, packed = found(results / "alone"), found(results / "packed")
    assert alone.keys() == packed.keys() and len(alone) == TRIALS
    for config, rungs in alone.items():
        for (wer, loss), (other_wer, other_loss) in zip(rungs, packed[config], strict=True):
            assert wer == other_wer and loss == pytest.approx(other_loss, rel=1e-5)
    records = [json.loads(path.read_text()) for path in (results / "packed").glob("trials/*/result.json")]
    assert {r["cost"]["packed"] for r in records if r["state"] == "complete"} >= {2}
    assert len(list((results / "packed" / "time").iterdir())) == 1, (
        "two workers keep one account of their trainer's time"
    )
    lost = [r for r in records if r["state"] == "fail"]
    assert 1 <= len(lost) <= 2 and all(r["reason"] == "the trainer died (killed by signal 9)" for r in lost)
