"""benchmarks/sweep.py through its command line, at a size of seconds, and its gate."""

import json
import os
import subprocess
import sys

import pytest

from harness.catalog import ROOT


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    arguments = ["--model", "random-toy", "--examples", "32", "--rounds", "1", "--scopes", "decoder"]
    arguments += ["--arms", "plain", "reload", "harness", "--grid", "small", "--json", folder / "found.json"]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sweep", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads((folder / "found.json").read_text())


def test_all_arms_train_the_same(measured):
    rows = {row["arm"]: row for row in measured[1]["rows"]}
    assert set(rows) == {"plain", "reload", "harness"}
    assert rows["reload"]["results"] == rows["harness"]["results"] == "equal"
    assert rows["plain"]["results"].startswith("loss 0.")  # percent: dropout and the loss's division are not the same


def test_times_are_told_apart(measured):
    row = {row["arm"]: row for row in measured[1]["rows"]}["harness"]
    assert row["train"] > 0 and row["evaluation"] > 0 and row["rest"] > 0
    assert row["wall"] == pytest.approx(row["train"] + row["evaluation"] + row["rest"])
    assert row["matmul_share"] is None or row["matmul_share"] > 0  # None on a busy machine
    assert "harness" in measured[0] and "of matmul rate" in measured[0]


def test_the_gate_sees_a_difference():
    from benchmarks.arms import Trial
    from benchmarks.sweep import check

    one, other = Trial(1.0, 0.5, ["a"]), Trial(1.01, 0.6, ["b"])
    said = check({"reload": [{"trials": {(8, 1e-3): one}}], "harness": [{"trials": {(8, 1e-3): other}}]})
    assert said == {"reload": "equal", "harness": "loss 1.0%, WER 10.0 points"}
