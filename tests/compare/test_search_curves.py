"""The budget curve: which trials are independent draws, and the expected best of n of them."""

import json
from itertools import combinations
from statistics import mean

import pytest
from examples import record, rung
from made import Study

from harness.compare.statistics.search_curves import FEW, budget_curve, importances, random_draws
from harness.spec.trial import TrialConfig

RANDOM, TPE, GRID = {"name": "random"}, {"name": "tpe", "n_startup_trials": 3}, {"name": "grid", "n_startup_trials": 10}


def trial(number, wer, **fields):
    return record(number, **{"state": "complete", "rungs": (rung(1, wer),), **fields})


def draws(sampler, *records):
    return random_draws([(None, r) for r in records], sampler)


def test_only_random_draws_that_were_evaluated_in_full_have_a_value():
    held = [
        trial(0, 0.1, proposed_by="warm_start"),
        trial(1, 0.9, state="fail", reason="killed", proposed_by="random"),
        trial(2, 0.5, proposed_by="random"),  # the retry of trial 1
        trial(3, 0.7, state="pruned", reason="pruned at rung 0", proposed_by="random"),
        trial(4, 0.2, state="pruned", reason="infeasible: vram 3.00 GB over 2.00 GB", proposed_by="random"),
        trial(5, 0.8, state="fail", reason="diverged at step 9", proposed_by="random"),
        trial(6, 0.4, proposed_by="random"),
        trial(7, 0.3, proposed_by="sampler"),
        record(0, kind="recipe", state="complete", rungs=(rung(1, 0.6),)),
    ]
    for sampler in (RANDOM, TPE):
        assert draws(sampler, *held) == ([0.5, 0.4], 3), "three without a result: pruned, infeasible, diverged"


def test_records_of_earlier_versions_are_judged_by_their_numbers_and_a_grid_has_no_draws():
    held = [trial(n, 0.1 * n) for n in range(1, 6)]
    assert draws(RANDOM, *held)[0] == [r.scores.wer for r in held]
    assert draws(TPE, *held)[0] == [0.1, 0.2]
    assert draws(GRID, *held) == draws(GRID, trial(0, 0.5, proposed_by="grid")) == ([], 0)


def test_the_curve_is_the_mean_best_of_every_choice_of_n():
    values = [0.9, 0.3, 0.5, 0.4, 0.8]
    points = budget_curve("s", values)
    assert [p.trials for p in points] == [1, 2, 3, 4, 5]
    for point in points:
        assert point.expected_best == pytest.approx(mean(min(c) for c in combinations(values, point.trials)))
        assert point.band_low <= point.expected_best <= point.band_high and point.unfinished == 0
    assert budget_curve("s", values[:3]) == []


def test_draws_without_a_result_rank_last_and_the_curve_begins_where_their_values_do_not_matter():
    values, unfinished = [0.9, 0.3, 0.5, 0.4], 3
    points = budget_curve("s", values, unfinished)
    assert [p.trials for p in points] == [4, 5, 6, 7] and {p.unfinished for p in points} == {3}
    for point in points:
        best = [min(c) for c in combinations([*values, *[9.0] * unfinished], point.trials)]
        assert point.expected_best == pytest.approx(mean(best)) and point.band_low is None is point.band_high


def test_a_comparison_writes_the_curve_of_its_random_draws(run, tmp_path):
    """Through compare.py: a warm start and a killed attempt are no draws; a pruned trial is one without a result."""
    study = Study(tmp_path / "results")
    study.run("baselines/vanilla/1", "zero_shot", "vanilla", 60)
    held = [(0.1, "complete", "warm_start"), (0.15, "fail", "random"), (0.3, "complete", "random"),
            (0.2, "complete", "random"), (0.4, "complete", "random"), (0.5, "complete", "random"),
            (0.05, "pruned", "random")]  # fmt: skip
    for number, (wer, state, by) in enumerate(held):
        path = study.run(f"trials/{number}", "trial", f"trial {number}", 10, number=number, wer=wer, state=state)
        stored = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**stored, "proposed_by": by}))
    code, _, err = run("--study", "made", "--top", "1", "--output", tmp_path / "out")
    assert code == 0, err
    rows = json.loads((tmp_path / "out" / "budget.json").read_text())
    assert [(row["trials"], row["unfinished"]) for row in rows] == [(n, 1) for n in range(2, 6)]
    assert rows[-1]["expected_best"] == pytest.approx(0.2)


def test_importances_need_some_trials_and_two_settings_that_vary():
    def searched(count, **fixed):
        settings = [{"r": 4 * (1 + n % 2), "learning_rate": 1e-3 * (1 + n), **fixed} for n in range(count)]
        configs = [
            TrialConfig(method="lora", lora_alpha=8, lora_dropout=0.0, target_modules=("q_proj",), **held)
            for held in settings
        ]
        return [(None, trial(n, 0.1 + n / 100, config=config)) for n, config in enumerate(configs)]

    sampled = {"r": {"choices": [4, 8]}, "learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
    assert importances("s", searched(FEW - 1), sampled) == []
    assert importances("s", searched(FEW, r=4), sampled) == []
    found = importances("s", searched(FEW + 2), sampled)
    assert {row.setting for row in found} == {"r", "learning_rate"}
    assert max(found, key=lambda row: row.importance).setting == "learning_rate", "by which alone the rates differ"
