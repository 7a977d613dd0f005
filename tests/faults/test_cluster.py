"""Workers: several on this machine, as jobs by submitit, and on a PostgreSQL server that goes away."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import optuna
import psutil
import pytest
from filelock import FileLock, Timeout
from processes import command_line

from harness.catalog import ROOT

PASSWORD = "open-sesame-31337"
JOBS = {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent / 'jobs'}", "FAKE_SECONDS": "0.4"}
SHORT = {"harness.orchestration.cluster:GRACE_SECONDS": 4, "harness.search.heartbeat:GRACE_SECONDS": 4,
         "harness.search.heartbeat:HEARTBEAT_SECONDS": 1}  # fmt: skip


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    """A server of our own on loopback, in a folder of the test, run as a user without rights."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        self.data = folder / "data"
        if os.getuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        self.run("initdb", "-D", self.data, "-U", "sweep", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}")

    def run(self, program: str, *arguments) -> None:
        before = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        log = self.folder / "out"
        with log.open("ab") as out:
            done = subprocess.run([*before, self.programs / program, *map(str, arguments)], stdout=out, stderr=out)
        assert done.returncode == 0, log.read_text()

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off"
        self.run("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://sweep:{PASSWORD}@127.0.0.1:{self.port}/postgres"


@pytest.fixture
def postgres():
    programs = postgres_programs()
    if programs is None:
        if os.environ.get("WHISPER_SWEEP_STRICT"):
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's own, which only its user may enter
        server = Postgres(programs, Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def on_postgres(disturbed, postgres, monkeypatch):
    disturbed.environment["WHISPER_SWEEP_STORAGE"] = postgres.url
    load = optuna.load_study
    monkeypatch.setattr(
        optuna, "load_study", lambda study_name, storage: load(study_name=study_name, storage=postgres.url)
    )
    return disturbed


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(KeyError):  # the study is not there yet
            if found := condition():
                return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def stopped_when(worker: psutil.Process, condition) -> bool:
    """Stop a worker at a moment when something holds; it works on where it does not."""
    worker.suspend()
    if condition():
        return True
    worker.resume()
    return False


def at_work_without_locks(study: Path) -> bool:
    """Two workers have a trial each, and none uses the database: nobody else could until it wakes."""
    try:
        with FileLock(study / "claims.lock", timeout=1), closing(sqlite3.connect(study / "optuna.db", 1)) as database:
            database.execute("BEGIN IMMEDIATE")
            return database.execute("SELECT count(*) FROM trials WHERE state = 'RUNNING'").fetchone() == (2,)
    except (Timeout, sqlite3.OperationalError):
        return False


def jobs(disturbed) -> list[psutil.Process]:
    return [p for p in disturbed.processes() if "submitit.core._submit" in command_line(p)]


def begun(disturbed) -> bool:
    """Two trials are claimed and have no record: whose worker dies now has failed."""
    running = [t for t in disturbed.optuna_trials() if t.state.name == "RUNNING" and "worker" in t.user_attrs]
    return len([t for t in running if not (disturbed.study / f"trials/{t.number}/result.json").exists()]) == 2


def test_n_is_not_overshot_by_workers_and_slots_are_refilled(disturbed):
    disturbed.options, disturbed.trials = ["--workers", "3"], 7
    disturbed.finish()
    disturbed.check_whole()
    assert len(disturbed.optuna_trials()) == 7


def test_two_jobs_on_postgres_one_is_killed_and_all_trials_finish(on_postgres):
    on_postgres.options = ["--workers", "2", "--launcher", "local-jobs"]
    on_postgres.environment |= JOBS
    process = on_postgres.start()
    wait_until(lambda: begun(on_postgres))
    victim = jobs(on_postgres)[0]
    wait_until(lambda: stopped_when(victim, lambda: begun(on_postgres)))
    command_lines = "".join(map(command_line, psutil.process_iter()))
    victim.kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    on_postgres.check_whole()
    assert any(t.state.name == "FAIL" for t in on_postgres.optuna_trials())
    assert PASSWORD not in command_lines and PASSWORD not in output
    for path in on_postgres.study.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_a_worker_that_slept_too_long_loses_its_trial_and_does_not_end_it_twice(disturbed):
    disturbed.options = ["--workers", "2", "--launcher", "local-jobs"]
    disturbed.environment |= {**JOBS, "FAKE_SECONDS": "1", "FAULT_PATCH": json.dumps(SHORT)}
    process = disturbed.start()
    wait_until(lambda: begun(disturbed))
    sleeper = jobs(disturbed)[0]
    wait_until(lambda: stopped_when(sleeper, lambda: at_work_without_locks(disturbed.study)))
    wait_until(lambda: any("its worker was lost" in t.user_attrs.get("reason", "") for t in disturbed.optuna_trials()))
    sleeper.resume()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    disturbed.check_whole()
    logs = "".join(path.read_text() for path in (disturbed.study / "jobs").glob("*.out"))
    assert "this attempt is discarded" in logs


def test_postgres_is_restarted_under_a_sweep(on_postgres, undisturbed, postgres):
    on_postgres.environment["FAKE_SECONDS"] = "0.3"
    process = on_postgres.start()
    wait_until(lambda: len(on_postgres.optuna_trials()) > 1 if (on_postgres.study / "trials").exists() else False)
    postgres.stop()
    time.sleep(4)
    postgres.start()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    on_postgres.check_whole()
    assert on_postgres.found() == undisturbed


def test_jobs_do_not_outlive_the_command_that_submitted_them(disturbed):
    disturbed.options = ["--workers", "2", "--launcher", "local-jobs"]
    disturbed.environment |= {**JOBS, "FAULT_PATCH": json.dumps(SHORT)}
    process = disturbed.start()
    wait_until(lambda: begun(disturbed))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not disturbed.processes(), seconds=20)
    disturbed.finish()
    disturbed.check_whole()


def test_jobs_that_are_shorter_than_a_trial_get_on(disturbed):
    """Each job is killed after one new rung, of three; two without progress would end the sweep."""
    disturbed.options = ["--workers", "1", "--launcher", "local-jobs", "--baselines", "tutorial"]
    patch = {"harness.orchestration.cluster:MAX_LOST_JOBS": 1, "harness.orchestration.cluster:POLL_SECONDS": 0.2}
    disturbed.environment |= {**JOBS, "FAKE_JOB_RUNGS": "1", "FAULT_PATCH": json.dumps(patch)}
    disturbed.trials = 1
    output = disturbed.finish()
    results = disturbed.results()
    assert results["baselines/tutorial/1"]["state"] == "complete", output
    assert len(results["baselines/tutorial/1"]["rungs"]) == 3
    last = max(int(name.split("/")[1]) for name in results if name.startswith("trials/"))
    assert results[f"trials/{last}"]["state"] == "complete" and len(results[f"trials/{last}"]["rungs"]) == 3


@pytest.mark.parametrize(
    "options, instead",
    [
        (["--storage", f"postgresql://sweep:{PASSWORD}@127.0.0.1/sweep"], "PGPASSWORD"),
        (["--mlflow-uri", f"http://me:{PASSWORD}@127.0.0.1:5000"], "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_password_on_the_command_line_is_refused(disturbed, options, instead):
    disturbed.options = options
    process = disturbed.start()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and instead in output and PASSWORD not in output
