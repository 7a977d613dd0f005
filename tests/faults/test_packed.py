"""Packed trials through the command line: they find what trials alone find, whoever is killed on the way."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from test_kill import trainer_of, wait_for

from harness.catalog import ROOT
from harness.orchestration.recovery import INTERRUPTED

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


@pytest.fixture
def arguments(space, cache) -> list:
    return ["--space", space, "--trials", str(TRIALS), "--cache-dir", cache]


@pytest.fixture
def packed_sweep(arguments, tmp_path):
    """Start it as a process, two trials in one pass."""
    return lambda: subprocess.Popen(
        [sys.executable, ROOT / "run_sweep.py", *arguments, "--study", "packed", "--pack", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["trainer", "supervisor"])
def test_a_packed_sweep_that_is_killed_finds_what_trials_alone_find(victim, packed_sweep, arguments, tmp_path, command):
    command("run_sweep.py", *arguments, "--study", "alone", "--pack", "off")
    process = packed_sweep()
    wait_for(process, "  trial 1: step 4 ")
    trainer = trainer_of(process)
    os.kill(trainer.pid if victim == "trainer" else process.pid, signal.SIGKILL)
    if victim == "supervisor":
        process.wait()
        _, alive = psutil.wait_procs([trainer], timeout=20)
        assert not alive, "the trainer outlived its supervisor"
        process = packed_sweep()
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "runs were packed" in output
    results = tmp_path / "results"
    check_equal(found(results / "alone"), found(results / "packed"))
    records = [json.loads(path.read_text()) for path in (results / "packed").glob("trials/*/result.json")]
    assert {r["cost"]["packed"] for r in records if r["state"] == "complete"} >= {2}
    reason = "the trainer died (killed by signal 9)" if victim == "trainer" else INTERRUPTED
    lost = [r for r in records if r["state"] == "fail"]
    assert 1 <= len(lost) <= 2 and all(r["reason"] == reason for r in lost)
    # Two workers keep one account of their trainer's time; a second command has its own.
    assert len(list((results / "packed" / "time").iterdir())) == (1 if victim == "trainer" else 2)


def check_equal(alone, packed) -> None:
    assert alone.keys() == packed.keys() and len(alone) == TRIALS
    for config, rungs in alone.items():
        for (wer, loss), (other_wer, other_loss) in zip(rungs, packed[config], strict=True):
            assert wer == other_wer and loss == pytest.approx(other_loss, rel=1e-5)
