"""Every sampler and pruner on a space with choices, ranges and a condition; seeds; refusals; the grid."""

import math

import optuna
import pytest

from harness.errors import UserError
from harness.search.grid import grid_point, grid_size
from harness.search.pruners import make_pruner, rung_step
from harness.search.samplers import ProposalSampler, make_sampler
from harness.search.sampling import suggest_configuration
from harness.spec.space import Pruner, SearchSpace

SPACE = {
    "description": "for tests",
    "model": "demo",
    "task": "demo",
    "budget": {"examples": 64, "rungs": [0.25, 0.5, 1.0]},
    "fixed": {"method": "lora", "lora_dropout": 0.0, "alpha_over_r": 2},
    "sampled": {
        "r": {"choices": [1, 4, 16]},
        "target_modules": {"choices": [["q_proj", "v_proj"], "all-linear"]},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "mask_time_prob": {"low": 0.0, "high": 0.1, "step": 0.05},
        "mask_time_length": {"low": 2, "high": 10},
    },
}


def space(sampler="tpe", **changed) -> SearchSpace:
    return SearchSpace.parse({**SPACE, "sampler": {"name": sampler, "n_startup_trials": 3}, **changed}, "space")


def searched(chosen: SearchSpace, trials: int, seed: int = 1):
    """Configurations and values of a search for lr 1e-3 with rank 16."""
    several = len(chosen.objectives) > 1
    study = optuna.create_study(directions=["minimize"] * len(chosen.objectives))
    found = []
    for number in range(trials):
        study.sampler = make_sampler(chosen, seed, number, study)
        trial = study.ask()
        config = suggest_configuration(chosen, trial)
        value = abs(math.log10(config.learning_rate / 1e-3)) + (config.r != 16)
        study.tell(trial, [value, config.r] if several else value)
        found.append((config, value))
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsga2"])
def test_every_sampler_draws_valid_configurations_and_the_same_again(sampler):
    found = searched(space(sampler), 12)
    assert found == searched(space(sampler), 12) != searched(space(sampler), 12, seed=2)
    assert {config.r for config, _ in found} <= {1, 4, 16}
    assert all(config.mask_time_length == 10 for config, _ in found if config.mask_time_prob == 0), "does not apply"


@pytest.mark.slow
def test_gp_asks_in_a_process_of_its_own(monkeypatch):
    import sys

    plain = {name: held for name, held in SPACE["sampled"].items() if name in ("r", "learning_rate", "target_modules")}
    found = searched(space("gp", sampled=plain), 5)
    assert len({config.learning_rate for config, _ in found}) == 5
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="gp sampler's process failed"):
        searched(space("gp", sampled=plain), 5)


def test_a_grid_holds_choices_steps_and_ends_each_once():
    sampled = {name: SPACE["sampled"][name] for name in ("r", "learning_rate", "mask_time_prob", "target_modules")}
    chosen = space("grid", sampled=sampled)
    points = [grid_point(chosen, 1, number) for number in range(54)]
    assert grid_size(chosen) == len(points) == 3 * 3 * 3 * 2
    assert sorted({point["learning_rate"] for point in points}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert sorted({point["mask_time_prob"] for point in points}) == pytest.approx([0.0, 0.05, 0.1])
    seen = [(c.r, c.learning_rate, c.mask_time_prob, c.target_modules) for c, _ in searched(chosen, 54)]
    assert len(set(seen)) == 54, "no point twice"


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"sampler": "grid"}, "a grid cannot contain mask_time_length"),
        ({"sampler": "cmaes", "sampled": {"r": {"choices": [1, 2]}}}, "cmaes needs a range"),
        ({"sampler": "cmaes", "objectives": ["wer", "vram"]}, "cmaes supports one objective"),
        ({"objectives": ["vram"]}, "objectives must contain wer"),
        ({"objectives": ["wer", "vram"], "pruner": {"name": "median"}}, "with several objectives"),
        ({"judge": "loss", "pruner": {"name": "wilcoxon"}}, "cannot be used with judge: loss"),
    ],
)
def test_what_cannot_search_a_space_is_refused_with_the_reason(changed, said):
    with pytest.raises(UserError, match=said):
        space(**changed)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_several_objectives(sampler):
    assert len(searched(space(sampler, objectives=["wer", "trainable"]), 8)) == 8


@pytest.mark.parametrize("name", ["successive_halving", "hyperband", "median", "patient"])
def test_every_pruner_stops_the_worse_and_spares_the_best(name):
    pruner = Pruner(name=name, n_startup_trials=2, patience=0)
    study = optuna.create_study(study_name="s", pruner=make_pruner(pruner, 4))
    stopped = []
    for value in [0.3, 0.4, 0.2, 0.9, 0.8, 0.95, 0.1, 0.7]:
        trial = study.ask()
        for index in range(3):
            trial.report(value + index / 100, rung_step(pruner, index))
            if trial.should_prune():
                stopped.append(value)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
    assert 0.1 not in stopped and 0.9 in stopped


def test_tpe_proposes_the_same_whether_it_remembers_the_shared_settings_or_looks_for_them_again():
    """What one trial's sampler found out of the trials so far is handed on to the next one's."""

    def proposed(remember: bool) -> tuple[list[dict], int]:
        study, seen = optuna.create_study(), set()
        for number in range(12):
            if not remember:
                study.sampler = optuna.samplers.RandomSampler()
            study.sampler = make_sampler(space(), 1, number, study)
            seen.add(study.sampler._search_space)
            trial = study.ask()
            study.tell(trial, suggest_configuration(space(), trial).learning_rate)
        return [trial.params for trial in study.trials], len(seen)

    (remembered, one), (anew, many) = proposed(True), proposed(False)
    assert remembered == anew and (one, many) == (1, 12)


@pytest.mark.parametrize("name", ["successive_halving", "hyperband"])
def test_an_attempt_that_failed_does_not_compete_with_its_retry(name):
    study = optuna.create_study(pruner=make_pruner(Pruner(name=name, reduction_factor=2), 2))
    first = study.ask()
    first.report(0.5, rung_step(Pruner(name=name, reduction_factor=2), 0))
    first.should_prune()
    study.tell(first, 0.5)
    killed = study.ask()
    killed.report(0.1, rung_step(Pruner(name=name, reduction_factor=2), 0))
    killed.should_prune()
    study.tell(killed, state=optuna.trial.TrialState.FAIL)
    second = study.ask()
    second.report(0.2, rung_step(Pruner(name=name, reduction_factor=2), 0))
    assert not second.should_prune(), "the best of those that stand"


@pytest.mark.parametrize("rungs, factor", [(1, 2), (2, 2), (5, 2), (6, 3), (4, 10), (7, 10)])
def test_hyperband_has_a_bracket_for_each_rung(rungs, factor):
    """Optuna rounds a floating logarithm down: log(3 ** 5, 3) is 4.999..., and the bracket without pruning was lost."""
    pruner = make_pruner(Pruner(name="hyperband", reduction_factor=factor), rungs)
    study = optuna.create_study(study_name="s", pruner=pruner)
    trial = study.ask()
    trial.report(0.5, 1)
    trial.should_prune()
    assert len(pruner._pruners) == rungs
    if rungs < 6 and factor < 10:
        brackets = [pruner._get_bracket_id(study, study.ask()._cached_frozen_trial) for _ in range(100)]
        assert set(brackets) == set(range(rungs)), "each bracket has trials"


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("rung", [0, 1, 2])
def test_successive_halving_acts_at_each_rung_and_keeps_one_in_the_factor(factor, rung):
    """Trials that are equal until a rung and differ there: all pass the rungs before, the best of each `factor` this."""
    pruner = Pruner(name="successive_halving", reduction_factor=factor)
    study = optuna.create_study(pruner=make_pruner(pruner, 4))
    passed = []
    for number in range(3 * factor):
        trial = study.ask()
        for index in range(rung):
            trial.report(0.5, rung_step(pruner, index))
            assert not trial.should_prune(), "equal to the best"
        trial.report(0.1 + number / 100, rung_step(pruner, rung))
        passed.append(not trial.should_prune())
        study.tell(trial, 0.5, state=optuna.trial.TrialState.COMPLETE)
    assert passed == [number == 0 for number in range(3 * factor)]
    trial = study.ask()
    for index in range(rung):
        trial.report(0.5, rung_step(pruner, index))
        trial.should_prune()
    trial.report(0.115, rung_step(pruner, rung))
    assert not trial.should_prune(), f"second of {3 * factor + 1}, of which three pass"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("random", optuna.samplers.RandomSampler),
        ("grid", ProposalSampler),
        ("gp", optuna.samplers.RandomSampler),  # before enough trials have ended
        ("cmaes", optuna.samplers.CmaEsSampler),
        ("nsga2", optuna.samplers.NSGAIISampler),
        ("tpe", optuna.samplers.TPESampler),
    ],
)
def test_each_name_is_the_sampler_that_it_says(name, kind):
    sampled = {
        key: SPACE["sampled"][key] for key in ("r", "target_modules", "learning_rate")
    }  # a grid has no condition
    assert type(make_sampler(space(name, sampled=sampled), seed=1, number=0)) is kind
