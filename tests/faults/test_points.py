"""SIGKILL of the supervisor and of the trainer at each named point, with a trainer that takes no time."""

import os
import random
import signal
import time

import psutil
import pytest
from processes import end

# Where the supervisor is killed, or stands while its trainer is about to do something: one start of the same command
# after another, each killed at the next point.
CHAINS = {
    "asking": [
        "optuna:Study.ask:after",  # a trial that nobody knows of
        "harness.search.study:Study.ask:after@2",  # a trial that nobody has claimed
        "harness.search.study:suggest_configuration@2",  # settings not drawn
        "harness.search.study:Study.checkpoint@2",  # after the first beat
    ],
    "training": [
        "fake_trainer:mid_rung@3",  # of a baseline
        "fake_trainer:mid_rung@5",
        "fake_trainer:write_json@6",  # of a checkpoint
        "harness.search.study:Study.may_continue:after",
        "harness.search.study:Study._enqueue_again:after",  # while the one before is put right
    ],
    "ending": [
        "harness.search.study:store:after@2",  # result.json is there
        "harness.search.study:Study.tell@2",
        "harness.search.study:Study._constrain:after@2",  # in the middle of telling
        "harness.search.study:Study.tell:after@2",
    ],
    "recording": [
        "harness.records.files:os.replace@3",  # a record half written
        # The mirror runs behind the sweep, which may be at its end when these are reached: they come last.
        "harness.records.mlflow_mirror:MLflowMirror._create:after@2",
        "harness.records.mlflow_mirror:MLflowMirror._attach@3",
    ],
}


@pytest.mark.parametrize("points", CHAINS.values(), ids=CHAINS.keys())
def test_the_supervisor_is_killed_at(disturbed, undisturbed, points):
    for point in points:
        disturbed.killed_at(point)
    disturbed.finish()
    disturbed.check_whole()
    assert disturbed.found() == undisturbed


def test_the_supervisor_is_killed_while_mlflow_makes_its_tables(disturbed):
    (disturbed.study / "mlflow.db").unlink()
    disturbed.killed_at("alembic.ddl.impl:DefaultImpl.create_table:after@3")
    disturbed.finish()
    disturbed.check_whole()


@pytest.mark.parametrize("point", ["fake_trainer:mid_rung@9", "fake_trainer:write_json@9"])
def test_the_trainer_is_killed_and_the_trial_goes_on_from_its_last_rung(disturbed, undisturbed, point):
    process = disturbed.start(point)
    os.kill(disturbed.reached(process), signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "the trainer died (killed by signal 9)" in output, output
    disturbed.check_whole()
    assert disturbed.found() == undisturbed


def test_ten_random_kills(disturbed, undisturbed):
    """Each start of the command is killed at a random time, now the supervisor, now its trainer."""
    disturbed.environment["FAKE_SECONDS"] = "0.5"
    chance, killed = random.Random(20261121), 0
    for number in range(10):
        process = disturbed.start()
        time.sleep(chance.uniform(1.0, 4.5))
        if process.poll() is None:  # else it came to its end: the rest finds nothing to do, and is killed doing it
            children = psutil.Process(process.pid).children()
            end(children[0] if number % 2 and children else psutil.Process(process.pid))
            killed += 1
        process.kill()
        process.wait()
    assert killed >= 5
    disturbed.finish()
    disturbed.check_whole()
    assert disturbed.found() == undisturbed
