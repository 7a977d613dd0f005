"""Limits that make trials infeasible, rules of our own that stop a trial, and several objectives."""

import random

import numpy as np
import pytest
from examples import record, rung

from harness import catalog
from harness.errors import UserError
from harness.model_size.parameters import count, dimensions
from harness.records.study_folder import StudyFolder
from harness.search.best_trials import best_trial, pareto_front, ranked_trials
from harness.search.constraints import apply_limits, constraint_values, exceeds_limit
from harness.search.pruners import is_dominated, wilcoxon_rejects
from harness.search.study import PENALTY, Study
from harness.spec.budget import Budget
from harness.spec.limits import Limits
from harness.spec.result import Cost
from harness.spec.space import SearchSpace

DEMO = catalog.space("demo")[1].model_dump(mode="json")
HALF = Budget(examples=10, rungs=(0.5, 1.0))


def cost(**fields) -> Cost:
    values = dict(steps=1, examples=10, train_seconds=5.0, evaluation_seconds=1.0, peak_memory_bytes=10**9,
                  memory_kind="process_rss", trainable_parameters=1000, total_parameters=2000, adapter_bytes=1)  # fmt: skip
    return Cost(**values | fields)


def done(number, config, wer, **fields):
    return record(number, state="complete", config=config, rungs=(rung(0, wer),), cost=cost(**fields))


def study(folder, limits, dims=None, sampler="tpe", **space) -> Study:
    held = SearchSpace.parse({**DEMO, "sampler": {"name": sampler}, "limits": limits, **space}, "space")
    return Study(StudyFolder(folder), "s", held, seed=1, dims=dims)


def end(held, trial, config, ended):
    ended = apply_limits(held.space.limits, ended, held.trainable_parameters(config))
    held.tell(trial, ended)
    return ended


def test_limits_are_read_with_units():
    found = Limits.parse({"vram": "16GB", "train_time": "1.5h", "trainable": "10M"}, "limits").as_dict()
    assert found == {"vram": 16e9, "train_time": 5400, "trainable": 10e6}
    for wrong in ({"vram": "16XB"}, {"train_time": "soon"}, {"trainable": -1}):
        with pytest.raises(UserError):
            Limits.parse(wrong, "limits")


def test_every_trial_sets_every_constraint_whatever_became_of_it(tmp_path):
    held = study(tmp_path, {"vram": 2e9, "train_time": 8})
    for ended in (
        lambda n, c: done(n, c, 0.3),
        lambda n, c: done(n, c, 0.2, peak_memory_bytes=3 * 10**9),
        lambda n, c: record(n, state="pruned", reason="out_of_memory", config=c),
        lambda n, c: record(n, state="pruned", config=c, rungs=(rung(0, 0.4),), cost=cost(), budget=HALF),
    ):
        trial, config = held.ask()
        end(held, trial, config, ended(trial.number, config))
    told = [t.constraints for t in held.optuna.trials]
    assert told == [
        {"out_of_memory": -1.0, "vram": -0.5, "train_time": pytest.approx(5 / 8 - 1)},
        {"out_of_memory": -1.0, "vram": 0.5, "train_time": pytest.approx(5 / 8 - 1)},
        {"out_of_memory": 1.0, "vram": 1.0, "train_time": 0.0},
        {"out_of_memory": -1.0, "vram": -0.5, "train_time": pytest.approx(0.25)},  # projected to the whole budget
    ]
    assert [t.state.name for t in held.optuna.trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert best_trial(held) == 0, "the lower WER broke a limit"


def test_an_infeasible_trial_is_recorded_as_stopped_with_the_reason():
    broke = apply_limits(Limits(vram=2e9), done(0, record().config, 0.1, peak_memory_bytes=3 * 10**9), None)
    assert (broke.state, broke.reason) == ("pruned", "infeasible: vram 3.00 GB over 2.00 GB")
    kept = done(0, record().config, 0.1)
    assert apply_limits(Limits(vram=2e9), kept, None) == kept
    assert exceeds_limit(Limits(train_time=3), rung(0, 0.5).model_copy(update={"train_seconds": 4.0}))


def test_trainable_parameters_are_known_before_training(tmp_path):
    dims = dimensions("demo")
    held = study(tmp_path, {"trainable": 100_000}, dims)
    for _ in range(8):
        trial, config = held.ask()
        trained = count(dims, config)[0]
        assert (held.refusal(config) is not None) == (trained > 100_000)
        ended = record(trial.number, state="pruned", reason=held.refusal(config), config=config)
        assert (constraint_values(held.space.limits, ended, trained)["trainable"] > 0) == (trained > 100_000)
        end(held, trial, config, ended)


@pytest.mark.parametrize("sampler", ["random", "nsga2", "cmaes"])
def test_other_samplers_are_told_a_finite_penalty_that_is_never_best(tmp_path, sampler):
    held = study(tmp_path, {"vram": 2e9}, sampler=sampler)
    for wer, memory in ((0.1, 3 * 10**9), (0.5, 10**9)):
        trial, config = held.ask()
        end(held, trial, config, done(trial.number, config, wer, peak_memory_bytes=memory))
    assert [(t.state.name, t.value) for t in held.optuna.trials] == [("COMPLETE", PENALTY), ("COMPLETE", 0.5)]
    assert best_trial(held) == 1


@pytest.mark.slow
def test_tpe_learns_a_limit_that_half_the_space_breaks_and_none_of_those_is_best(tmp_path):
    """Memory depends on rank, batch size and learning rate, with noise; WER is better where memory is larger."""
    shares = []
    for seed in range(3):
        noise = random.Random(seed)

        def memory(config, noise=noise):
            large = np.log2(config.r / 8) + np.log2(config.per_device_train_batch_size / 4)
            return 1e9 * (large + np.log10(config.learning_rate / 1e-3) + noise.gauss(0, 0.1))

        (tmp_path / str(seed)).mkdir()
        held = study(tmp_path / str(seed), {"vram": 2.5e9})
        held.seed = seed
        broken = []
        for _ in range(60):
            trial, config = held.ask()
            used = max(1, round(memory(config)))
            ended = done(trial.number, config, 0.5 - 0.05 * used / 1e9, peak_memory_bytes=used)
            ended = end(held, trial, config, ended)
            broken.append(ended.state == "pruned")
            if best_trial(held) is not None:
                assert not broken[best_trial(held)], "an infeasible trial was best"
        assert 0.25 < sum(broken[:20]) / 20 < 0.85
        shares.append(sum(broken[20:]) / 40)
    assert sum(shares) / 3 < 0.6, shares


def test_a_trial_has_lost_when_the_signed_rank_test_says_so():
    best = [1, 0, 2, 1, 0, 1, 2, 0, 1, 1, 0, 2]
    assert wilcoxon_rejects([e + 2 for e in best], best, 0.05)
    assert not wilcoxon_rejects(best, best, 0.05)
    assert not wilcoxon_rejects([e + 2 for e in best[:4]], best, 0.05), "too few utterances"
    assert not wilcoxon_rejects([e - 1 for e in best], best, 0.05), "it is better"
    draws = np.random.default_rng(0).poisson(1.0, (400, 2, 40))
    assert np.mean([wilcoxon_rejects(a.tolist(), b.tolist(), 0.05) for a, b in draws]) < 0.08


def test_a_dominated_trial_is_stopped_only_beyond_the_margin():
    finished = [done(0, record().config, 0.3).model_copy(update={"rungs": (rung(0, 0.5), rung(1, 0.3))})]

    def stopped(wer, memory, margin=0.01):
        now = rung(0, wer).model_copy(update={"peak_memory_bytes": memory})
        return is_dominated(now, 1.0, finished, ("wer", "vram"), margin, 0)

    assert stopped(0.6, 2 * 10**9)
    assert not stopped(0.505, 2 * 10**9), "within the margin"
    assert not stopped(0.6, 10**8), "it needs less memory"


def test_several_objectives_have_a_pareto_set_without_the_infeasible(tmp_path):
    held = study(tmp_path, {"vram": 4e9}, objectives=["wer", "vram"])
    for wer, memory in ((0.3, 3e9), (0.4, 2e9), (0.5, 2.5e9), (0.1, 5e9)):
        trial, config = held.ask()
        held.may_continue(trial, rung(0, wer), None)  # Optuna's own report would raise
        end(held, trial, config, done(trial.number, config, wer, peak_memory_bytes=int(memory)))
    assert pareto_front(held) == [(0, [0.3, 3e9]), (1, [0.4, 2e9])]
    assert ranked_trials(held) == [0, 1, 2]
