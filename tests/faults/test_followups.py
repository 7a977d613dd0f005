"""SIGKILL while baselines are tuned, while the best is confirmed, tried on parts of the data, and refitted."""

import os
from pathlib import Path

import pytest

from harness.catalog import ROOT

OPTIONS = ["--tune-baselines", "3", "--confirm", "2", "--seeds", "2", "--data-fractions", "0.5,1", "--refit"]
POINTS = [
    "fake_trainer:mid_rung@6",  # of the first run of a baseline's own search
    "harness.orchestration.worker:store:after@2",  # the second one is recorded, and nobody was told
    "harness.orchestration.worker:store@2",  # confirmation, for trials are stored elsewhere: a run is trained, not recorded
    "fake_trainer:mid_rung@2",  # confirmation, on the way
    "harness.orchestration.follow_up_runs:followups:after@2",  # between the search and what follows it
    "fake_trainer:on_part@2",
    "fake_trainer:refit",
]


def followed(study) -> dict[str, tuple]:
    """Everything but trials, as it ended."""
    return {
        key: (r["state"], r["seed"], r["config"], r["portion"], [rung["scores"]["wer"] for rung in r["rungs"]])
        for key, r in study.results().items()
        if r["kind"] != "trial"
    }


@pytest.fixture(scope="module")
def expected(calm) -> dict[str, tuple]:
    """What the same command leaves where nothing happens."""
    return followed(calm(*OPTIONS))


def test_all_that_was_asked_for_is_there(expected):
    kinds = [key.split("/")[0] for key in expected]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"baselines": 2, "tuning": 2, "replicates": counts["replicates"], "fractions": 2, "refit": 1}
    assert counts["replicates"] in (6, 8), "two trials, the tutorial, and the tutorial tuned, unless that is the same"
    assert {state for state, *_ in expected.values()} == {"complete"}


def test_the_same_command_goes_on_to_the_same_end(disturbed, undisturbed, expected):
    disturbed.options = OPTIONS
    for point in POINTS:
        disturbed.killed_at(point)
    disturbed.finish()
    disturbed.check_whole()
    assert disturbed.found() == undisturbed
    assert followed(disturbed) == expected


def test_jobs_carry_out_what_follows_too(disturbed, expected):
    disturbed.options = OPTIONS
    disturbed.killed_at("fake_trainer:mid_rung@3")  # a baseline has a rung, from which a job goes on
    disturbed.options = [*OPTIONS, "--workers", "2", "--launcher", "local-jobs"]
    disturbed.environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{Path(__file__).parent / 'jobs'}"
    disturbed.finish()
    disturbed.check_whole()
    found = followed(disturbed)
    assert [key.split("/")[0] for key in found] == [key.split("/")[0] for key in expected]
    assert {state for state, *_ in found.values()} == {"complete"}
