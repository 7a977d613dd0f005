"""SIGKILL from another process, of the supervisor and of the trainer: the same command finishes the study."""

import json
import os
import signal
import subprocess
import sys
import time

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from processes import command_line, living

from harness.catalog import ROOT


@pytest.fixture
def started(small_space, cache, tmp_path):
    """Start the sweep as a process of its own."""

    def start() -> subprocess.Popen:
        arguments = ["--space", small_space, "--study", "s", "--trials", "3", "--cache-dir", cache]
        return subprocess.Popen(
            [sys.executable, ROOT / "run_sweep.py", *arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


def wait_for(process, word) -> list[str]:
    """Read the sweep's lines until one holds a word."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"{word!r} never came:\n{''.join(lines)}")


def trainer_of(process) -> psutil.Process:
    return living("harness.training.process", process.pid)[0]


def test_a_supervisor_that_is_killed_while_its_trainer_loads_leaves_none(started, tmp_path):
    process = started()
    wait_for(process, "results in")
    while not (trainers := living("harness.training.process", process.pid)):
        time.sleep(0.01)
    while not any("libtorch" in place.path for place in trainers[0].memory_maps()):  # seconds before it has loaded
        time.sleep(0.01)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(trainers, timeout=1)
    assert not any(map(command_line, left)), "the trainer outlived its supervisor"


def finish(start) -> str:
    process = start()
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def check_whole(tmp_path, failures: int) -> None:
    """Three slots used, each with a record that Optuna agrees with, nothing running anywhere."""
    folder = tmp_path / "results" / "s"
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{folder / 'optuna.db'}").trials
    states = [t.state.name for t in trials]
    assert states.count("COMPLETE") == 3 and states.count("FAIL") == failures and len(states) == 3 + failures
    for trial in trials:
        record = json.loads((folder / "trials" / str(trial.number) / "result.json").read_text())
        assert record["state"] == trial.state.name.lower()
        if trial.state.name == "COMPLETE":
            assert record["rungs"][-1]["scores"]["wer"] == trial.value
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("s")
    runs = client.search_runs([experiment.experiment_id])
    assert not [r for r in runs if r.info.status == "RUNNING"]
    keys = [r.data.tags["record"] for r in runs]
    assert len(keys) == len(set(keys)) == 1 + 1 + len(trials)  # study, vanilla, trials


def test_a_study_that_was_disturbed_finds_what_an_undisturbed_one_finds(started, tmp_path):
    process = started()
    wait_for(process, "trial 1:")
    wait_for(process, "  step 4 ")
    trainer = trainer_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs([trainer], timeout=20)
    assert not alive, "the trainer outlived its supervisor"
    finish(started)
    check_whole(tmp_path, 1)
    folder = tmp_path / "results" / "s"
    disturbed = losses(folder)
    folder.rename(tmp_path / "disturbed")
    finish(started)
    assert disturbed == losses(folder), "bit for bit"


def losses(folder) -> dict:
    """Losses and transcripts of the complete trials, by what was tried."""
    found = {}
    for path in folder.glob("trials/*/result.json"):
        record = json.loads(path.read_text())
        if record["state"] == "complete":
            seen = [rung["loss"] for rung in record["rungs"]], (path.parent / "transcripts.jsonl").read_text()
            found[json.dumps(record["config"], sort_keys=True)] = seen
    return found


def test_two_supervisors_do_not_work_on_one_study(started, tmp_path, small_space, cache):
    process = started()
    wait_for(process, "trial 0:")
    second = started()
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 2 and "already being worked on" in output
    process.kill()
    process.wait()
    time.sleep(0.1)
