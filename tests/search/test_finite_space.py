"""Spaces that have an end: which configurations they hold, and that none is tried twice, however many there are."""

import math

import pytest
from examples import record, rung

from harness import catalog
from harness.records.study_folder import StudyFolder
from harness.search import grid
from harness.search.preview import sample_configurations
from harness.search.study import Study
from harness.spec.space import SearchSpace

FIXED = {"method": "lora", "target_modules": ["q_proj"], "lora_dropout": 0.0, "alpha_over_r": 2}
# 15 x 16 x 9 x 3 = 6,480 configurations
LARGE = {
    "r": {"choices": list(range(1, 16))},
    "per_device_train_batch_size": {"choices": list(range(1, 17))},
    "lora_dropout": {"low": 0.0, "high": 0.4, "step": 0.05},
    "weight_decay": {"choices": [0.0, 0.01, 0.1]},
}


def space(sampler: str, sampled: dict, **fixed) -> SearchSpace:
    held = catalog.space("demo")[1].model_dump(mode="json", exclude={"fixed", "sampled", "sampler"}, exclude_none=True)
    fixed = {name: value for name, value in {**FIXED, **fixed}.items() if name not in sampled}
    sampler = {"name": sampler, "n_startup_trials": 3, "grid_points": 5}
    return SearchSpace.parse({**held, "fixed": fixed, "sampled": sampled, "sampler": sampler}, "space")


def complete(study: Study) -> dict:
    trial, config = study.next_trial(1000, "w", "a")
    wer = (config.r - 8) ** 2 / 100 + config.lora_dropout
    study.tell(trial, record(trial.number, state="complete", config=config, rungs=(rung(0, wer),)))
    return trial.params


def test_a_large_grid_repeats_no_point_that_was_enqueued(tmp_path):
    large = space("grid", LARGE)
    point = grid.grid_point(large, 1, 2)  # which the grid would reach as its third trial
    study = Study(StudyFolder(tmp_path), "s", large, seed=1)
    study.optuna.enqueue_trial(point)
    seen = [complete(study) for _ in range(6)]
    assert seen[0] == point and len({str(sorted(params.items())) for params in seen}) == 6


def test_a_large_space_of_choices_is_searched_without_repeats(tmp_path, monkeypatch):
    """Whatever the sampler proposes: here always the same."""
    monkeypatch.setattr("harness.search.samplers.trial_seed", lambda seed, number: 7)
    study = Study(StudyFolder(tmp_path), "s", space("random", LARGE), seed=1)
    seen = [str(sorted(complete(study).items())) for _ in range(6)]
    assert len(set(seen)) == 6


def test_a_point_of_a_large_grid_is_made_alone(monkeypatch):
    """103,680 points were listed at every ask."""
    sampled = {**LARGE, "gradient_accumulation_steps": {"choices": [1, 2, 4, 8]},
               "warmup_ratio": {"choices": [0.0, 0.05, 0.1, 0.2]}}  # fmt: skip
    huge = space("grid", sampled)
    assert grid.grid_size(huge) == math.prod((15, 16, 9, 3, 4, 4)) == 103_680
    monkeypatch.setattr("itertools.product", lambda *axes: pytest.fail("all points are listed"))
    configs = sample_configurations(huge, 20, seed=1)
    assert len({str(config.settings()) for config in configs}) == 20
    assert [c.r for c in configs] == [grid.grid_point(huge, 1, number)["r"] for number in range(20)]


def test_the_points_of_a_grid_are_each_of_its_places_once():
    small = space("grid", {"r": {"choices": [1, 2, 3]}, "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})
    points = [grid.grid_point(small, 1, number) for number in range(15)]
    assert {(p["r"], round(math.log10(p["learning_rate"]), 3)) for p in points} == {
        (r, lr) for r in (1, 2, 3) for lr in (-4.0, -3.5, -3.0, -2.5, -2.0)
    }
    assert points != [grid.grid_point(small, 2, number) for number in range(15)]
    assert grid.grid_point(small, 1, 15) == points[0]
