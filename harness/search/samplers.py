"""Optuna's samplers and pruners for a space, each trial's sampler seeded anew."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import warnings
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from harness.catalog import ROOT
from harness.errors import UserError
from harness.spec.space import Distribution, Pruner, SearchSpace, is_integer


def fresh_seed(seed: int, number: int) -> int:
    """A seed for one trial: one sampler for all would draw the same again after a restart."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def make_sampler(space: SearchSpace, seed: int, number: int, study: optuna.Study | None = None) -> BaseSampler:
    """The sampler for one trial, seeded by study and trial number; `study` holds what gp is to learn from."""
    sampler, fresh = space.sampler, fresh_seed(seed, number)
    random = optuna.samplers.RandomSampler(seed=fresh)
    if sampler.name == "random":
        return random
    if sampler.name == "grid":
        return ProposalSampler(grid(space, seed)[number % grid_size(space)], random)
    if sampler.name == "gp":
        finished = 0 if study is None else len(_ended(study))
        if study is None or finished < max(1, sampler.n_startup_trials):
            return random
        return ProposalSampler(ask_gp(space, study, fresh), random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler.name == "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=fresh,
                n_startup_trials=max(1, sampler.n_startup_trials),
                independent_sampler=random,
                warn_independent_sampling=False,
            )
        if sampler.name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=fresh, population_size=max(2, sampler.n_startup_trials))
        # A trial that runs elsewhere counts as a bad one meanwhile, so that two workers do not try the same.
        tpe = optuna.samplers.TPESampler(seed=fresh, n_startup_trials=sampler.n_startup_trials, constant_liar=True)
        if study is not None and isinstance(study.sampler, optuna.samplers.TPESampler):
            # What it has learned of the settings that all trials share; without it, each would read all trials anew.
            tpe._search_space = study.sampler._search_space
        return tpe


class IndependentSampler(BaseSampler):
    """Draws each setting by itself."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}


class ProposalSampler(IndependentSampler):
    """A configuration that was decided on elsewhere; what it does not hold is drawn at random."""

    def __init__(self, params: dict[str, Any], otherwise: BaseSampler) -> None:
        self._params, self._otherwise = params, otherwise

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The decided value, where there is one."""
        if param_name in self._params:
            return self._params[param_name]
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


def grid_points(name: str, dimension: Distribution, points: int) -> list[Any]:
    """What a grid tries of a dimension: each choice, each step, or `points` from end to end (evenly in the log)."""
    if dimension.choices is not None:
        return [plain(choice) for choice in dimension.choices]
    assert dimension.low is not None and dimension.high is not None
    if dimension.step is not None:
        found = np.arange(dimension.low, dimension.high + dimension.step / 2, dimension.step)
    elif dimension.log:
        found = np.geomspace(dimension.low, dimension.high, points)
    else:
        found = np.linspace(dimension.low, dimension.high, points)
    if is_integer(name):
        return sorted({round(value) for value in found.tolist()})
    return [min(max(value, dimension.low), dimension.high) for value in found.tolist()]


def grid_size(space: SearchSpace) -> int:
    """How many points the space's grid has."""
    sizes = [len(grid_points(name, held, space.sampler.grid_points)) for name, held in space.sampled.items()]
    return int(np.prod(sizes))


def grid(space: SearchSpace, seed: int) -> list[dict[str, Any]]:
    """Every point once, in an order that the seed shuffles."""
    axes = {name: grid_points(name, held, space.sampler.grid_points) for name, held in space.sampled.items()}
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [points[place] for place in np.random.default_rng(seed).permutation(len(points))]


def plain(choice: object) -> bool | int | float | str | None:
    """A choice as Optuna stores it: the members of a list joined by a plus."""
    if isinstance(choice, tuple | list):
        return "+".join(str(part) for part in choice)
    assert choice is None or isinstance(choice, bool | int | float | str)
    return choice


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def ask_gp(space: SearchSpace, study: optuna.Study, seed: int) -> dict[str, Any]:
    """What Optuna's Gaussian process proposes; it computes in a process of its own, for it needs torch.

    Raises:
        UserError: if that process fails.
    """
    trials = [
        {
            "values": trial.values,
            "params": trial.params,
            "distributions": {name: distribution_to_json(d) for name, d in trial.distributions.items()},
        }
        for trial in _ended(study)
    ]
    order = {"space": space.model_dump(mode="json"), "seed": seed, "trials": trials}
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "harness.search.gp_process"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the gp sampler's process failed: {last}; another sampler is named with --sampler")
    proposed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return proposed


class WithoutRetries:
    """A study without the attempts that failed, whose values would compete beside those of their retries."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, *arguments: Any, **named: Any) -> list[FrozenTrial]:
        """All trials but the failed ones."""
        return [t for t in self._study.get_trials(*arguments, **named) if t.state != TrialState.FAIL]


class SuccessiveHalving(optuna.pruners.SuccessiveHalvingPruner):
    """ASHA among the trials that stand: a kill must not change who is promoted."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial at the rung that it has just reported."""
        return super().prune(cast(optuna.Study, WithoutRetries(study)), trial)


class Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband, likewise."""

    def _create_bracket_study(self, study: optuna.Study, bracket_id: int) -> optuna.Study:
        return cast(optuna.Study, WithoutRetries(super()._create_bracket_study(study, bracket_id)))


def make_pruner(pruner: Pruner, rungs: int) -> optuna.pruners.BasePruner:
    """Optuna's part of pruning; values are reported at `rung_step`. Wilcoxon's test is the supervisor's own."""
    factor = pruner.reduction_factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if pruner.name == "hyperband":
            return Hyperband(min_resource=1, max_resource=factor ** max(1, rungs - 1), reduction_factor=factor)
        median = optuna.pruners.MedianPruner(n_startup_trials=pruner.n_startup_trials)
        if pruner.name == "median":
            return median
        if pruner.name == "patient":
            return optuna.pruners.PatientPruner(median, patience=pruner.patience)
    if pruner.name == "successive_halving":
        return SuccessiveHalving(min_resource=1, reduction_factor=factor, min_early_stopping_rate=0)
    return optuna.pruners.NopPruner()


def rung_step(pruner: Pruner, index: int) -> int:
    """The step under which rung `index` is reported: where successive halving has that rung, whatever its budget."""
    return int(pruner.reduction_factor**index)
