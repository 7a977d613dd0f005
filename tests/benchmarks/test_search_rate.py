"""benchmarks/search_rate.py: what a random search is expected to take, how a real one is read, and the command."""

import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction

import pytest
import yaml

from benchmarks.search_rate import GRIDS, Ended, GridJob, draws, expected, found, gate, point, searched, space
from harness import catalog
from harness.catalog import ROOT
from harness.search.finite_space import finite_space, settings_key

A, B = (1e-3, 8, "q_proj"), (1e-2, 8, "q_proj")


@pytest.fixture
def job(tmp_path):
    return GridJob("demo", "demo", "decoder", 64, "24", tmp_path)


@pytest.mark.parametrize("size,good", [(1, 1), (6, 1), (6, 2), (6, 6), (7, 3)])
def test_draws_are_those_of_all_orders(size, good):
    orders = list(itertools.permutations(range(size)))
    counted = [next(place for place, item in enumerate(order, 1) if item < good) for order in orders]
    assert draws(size, good) == Fraction(sum(counted), len(orders))


def test_start_up_counts_once():
    row = expected([10.0, 13.0, 14.0], size=5, good=1)  # the first trial 10 s, 2 s each after it; three are needed
    assert row == {"first": 10.0, "later": 2.0, "trials": 3.0, "seconds": 14.0}


def test_a_trial_that_was_stopped_is_none_found_and_a_miss_counts_whole():
    stopped, bad, good = Ended(3.0, A, None), Ended(5.0, B, 0.9), Ended(9.0, A, 0.5)
    assert found([stopped, bad, good], 0.5) == 3 and found([stopped, bad], 0.5) is None
    row = searched([[good], [stopped, bad], [stopped, good, bad]], 0.5, 0.5)
    assert row["runs"] == [9.0, 5.0, 9.0] and row["missed"] == 1 and row["above"] == pytest.approx([0, 40, 0])
    assert row["trials"] == pytest.approx(5 / 3) and row["stopped"] == pytest.approx(2 / 3)


def test_the_gate_sees_another_rate_and_leaves_stopped_trials_out():
    truth = {A: 0.5, B: 0.9}
    assert gate([Ended(1.0, A, 0.5), Ended(2.0, B, None)], truth) == "equal"
    assert gate([Ended(1.0, A, 0.5), Ended(2.0, B, 0.8)], truth) == "1 of 2 differ"


def test_sweeps_search_the_grid_with_what_is_the_default(job, tmp_path):
    """Each in another order, all in the same space, and the order is all that differs."""
    spaces = []
    for order in (None, 0, 1):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(space(job, order)))
        spaces.append(catalog.space(str(tmp_path / "grid.yaml"))[1])
    whole, one, other = spaces
    assert (whole.sampler.name, whole.pruner.name) == ("grid", "none")
    assert (one.sampler.name, one.pruner.name) == ("tpe", "successive_halving") and len(one.budget.rungs) == 3
    keys = [{settings_key(c) for c in finite_space(each).configurations()} for each in (whole, one, other)]
    assert one != other and keys[0] == keys[1] == keys[2]
    assert len({point(config) for config in job.configurations()}) == len(keys[0]) == 24


def test_real_trials_are_spread_over_the_grid(job):
    places = job.spread(3)
    configs = job.only(places).configurations()
    assert len(places) == 3 and configs == [job.configurations()[place] for place in places]
    for name, values in GRIDS["24"].items():
        assert len({getattr(config, name) for config in configs}) >= min(2, len(values))


@pytest.mark.slow
def test_the_command(tmp_path):
    arguments = ["--model", "random-toy", "--examples", "32", "--grid", "two", "--scopes", "decoder"]
    arguments += ["--sweeps", "1", "--processes", "0", "--search", "--pruner none"]
    arguments += ["--json", str(tmp_path / "found.json")]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "benchmarks.search_rate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    [scope] = json.loads((tmp_path / "found.json").read_text())
    rows = {row["arm"]: row for row in scope["rows"]}
    assert scope["size"] == len(scope["wers"]) == 2 and 1 <= scope["good"] <= 2
    assert set(rows) == {"harness, random", "harness"} and rows["harness"]["results"] == "equal"
    assert 0 < rows["harness"]["first"] <= rows["harness"]["seconds"] == rows["harness"]["runs"][0]
    assert rows["harness"]["missed"] == 0 and "until within 0.5 points" in done.stdout
