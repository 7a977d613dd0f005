"""What stops a sweep, or keeps it waiting: signals, a locked database, a full disk, a server that is gone."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import psutil
import pytest
from mlflow import MlflowClient

from harness.search import heartbeat
from harness.search.heartbeat import GRACE_SECONDS, HEARTBEAT_SECONDS, HeartbeatMonitor


def said(process, words) -> str:
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"{words!r} never came:\n{''.join(lines)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_finishes_the_rung_and_the_trial_goes_on_next_time(disturbed, undisturbed, number):
    disturbed.environment["FAKE_SECONDS"] = "1"
    process = disturbed.start()
    said(process, "trial 1:")
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert (
        process.returncode == 130
        and "stopping after the current rung" in output
        and "same command again to resume" in output
    )
    assert "Traceback" not in output
    stopped = disturbed.optuna_trials()[1]
    assert stopped.state.name == "FAIL" and stopped.user_attrs["reason"] == "interrupted: stopped on request"
    assert len(disturbed.results()["trials/1"]["rungs"]) == 1 and (disturbed.study / "trials/1/checkpoint").is_dir()
    disturbed.check_processes()
    disturbed.environment.clear()
    output = disturbed.finish()
    disturbed.check_whole()
    assert disturbed.found() == undisturbed


def test_a_second_signal_leaves_at_once(disturbed, undisturbed):
    disturbed.environment["FAKE_SECONDS"] = "20"
    process = disturbed.start()
    said(process, "vanilla:")
    process.send_signal(signal.SIGTERM)
    said(process, "stopping after the current rung")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert process.returncode == 130 and time.monotonic() - began < 10
    disturbed.check_processes()
    disturbed.environment.clear()
    disturbed.finish()
    disturbed.check_whole()
    assert disturbed.found() == undisturbed


@pytest.mark.parametrize(
    "options, why",
    [
        (["--max-trainable", "10M", "--model", "nobody/unknown"], "nobody/unknown"),  # while its trainer comes up
        (["--warm-start", "nothing"], "there is no study 'nothing'"),  # when it is there
    ],
)
def test_a_sweep_that_is_refused_leaves_no_trainer_and_no_run(disturbed, options, why):
    disturbed.options = ["--study", "other", *options]
    process = disturbed.start()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and why in output and "Traceback" not in output, output
    assert (disturbed.path / "results/other/trainer.log").exists(), "it was started"
    disturbed.check_processes()
    client = MlflowClient(tracking_uri=f"sqlite:///{disturbed.path / 'results/other/mlflow.db'}")
    assert client.get_experiment_by_name("other") is None


def test_a_locked_database_costs_time_and_nothing_else(disturbed, undisturbed):
    """Longer than SQLite itself waits: here 1 s instead of 60. LOCKED_SECONDS=30 for a real lock's length."""
    disturbed.environment |= {"FAULT_PATCH": '{"harness.search.storage:SQLITE_TIMEOUT": 1}', "FAKE_SECONDS": "0.2"}
    process = disturbed.start()
    said(process, "trial 0:")
    with sqlite3.connect(disturbed.study / "optuna.db", timeout=30) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(float(os.environ.get("LOCKED_SECONDS", "4")))
        other.rollback()
    other.close()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    disturbed.check_whole()
    assert disturbed.found() == undisturbed


@pytest.mark.parametrize("point", ["harness.records.files:write_text@9", "fake_trainer:write_json@7"])
def test_a_full_disk_stops_cleanly(disturbed, undisturbed, point):
    disturbed.environment["FAULT_FULL"] = point
    process = disturbed.start()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "error: the disk is full" in output and "Traceback" not in output, output
    before = disturbed.results()
    disturbed.check_processes()
    disturbed.environment.clear()
    disturbed.finish()
    disturbed.check_whole()
    assert {k: v for k, v in disturbed.results().items() if k in before} == before
    assert disturbed.found() == undisturbed


@pytest.fixture
def server(tmp_path):
    """An MLflow tracking server, as a function that starts it on the same port each time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []

    def start() -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port),
             "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", tmp_path / "kept"],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return f"http://127.0.0.1:{port}"
            time.sleep(0.1)
        raise AssertionError("MLflow's server did not come up")

    start.stop = lambda: [end(process) for process in started]
    yield start
    start.stop()


def end(process) -> None:
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait()


def test_a_tracking_server_that_dies_stops_nothing_and_is_caught_up(disturbed, undisturbed, server):
    uri = server()
    disturbed.options = ["--mlflow-uri", uri]
    disturbed.environment["FAKE_SECONDS"] = "0.2"
    process = disturbed.start()
    said(process, "trial 0:")
    server.stop()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and output.count("MLflow is behind") == 1 and uri in output, output
    assert disturbed.found() == undisturbed
    server()
    disturbed.finish()
    disturbed.check_mirror(disturbed.optuna_trials(), uri)


class Beats:
    """A database of which a test sets the heartbeats."""

    def __init__(self) -> None:
        self.beats = {}

    def heartbeats(self):
        return dict(self.beats)


def test_clocks_may_jump_and_the_database_may_be_away_without_a_trial_being_reaped(monkeypatch):
    now, database = [0.0], Beats()
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    watch, step = HeartbeatMonitor(database), HEARTBEAT_SECONDS
    for beat in ("12:00:00", "12:00:10", "03:00:00", "03:00:10", "23:59:00"):  # back by nine hours, on by a day
        database.beats = {1: beat, 2: beat}
        assert watch.stale_trials([1, 2]) == []
        now[0] += step
    now[0] += 10 * GRACE_SECONDS  # nobody could look, and nobody could beat
    assert watch.stale_trials([1, 2]) == []
    for number in range(int(GRACE_SECONDS / step) + 1):  # one goes on to beat, though its clock stands in the past
        database.beats[1] = f"02:00:{number}"
        now[0] += step
        last = watch.stale_trials([1, 2])
    assert last == [2]
