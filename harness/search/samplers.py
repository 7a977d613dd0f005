"""Make the Optuna sampler of a search space; each trial's sampler gets its own seed."""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from harness.catalog import ROOT
from harness.errors import UserError
from harness.search.grid import grid_point
from harness.spec.result import ProposedBy
from harness.spec.space import SearchSpace


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of one trial; a single sampler would repeat its draws after a restart."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def make_sampler(space: SearchSpace, seed: int, number: int, study: optuna.Study | None = None) -> BaseSampler:
    """Return the sampler for one trial, seeded by study and trial number; gp learns from `study`."""
    sampler, fresh = space.sampler, trial_seed(seed, number)
    random = optuna.samplers.RandomSampler(seed=fresh)
    if sampler.name == "random":
        return random
    if sampler.name == "grid":
        return ProposalSampler(grid_point(space, seed, number), random)
    if sampler.name == "gp":
        finished = 0 if study is None else len(_ended(study))
        if study is None or finished < max(1, sampler.n_startup_trials):
            return random
        return ProposalSampler(propose_with_gp(space, study, fresh), random)
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


def proposed_by(space: SearchSpace, study: optuna.Study) -> ProposedBy:
    """Return how the sampler chooses the next configuration: at random until enough trials have ended."""
    sampler = space.sampler
    if sampler.name in ("random", "grid"):
        return sampler.name
    states = (TrialState.COMPLETE, TrialState.PRUNED) if sampler.name == "tpe" else (TrialState.COMPLETE,)
    ended = len(study.get_trials(deepcopy=False, states=states))
    return "random" if ended < sampler.n_startup_trials else "sampler"


class IndependentSampler(BaseSampler):
    """Sample each setting independently."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}


class ProposalSampler(IndependentSampler):
    """Return given values, and sample the settings that are not given at random."""

    def __init__(self, params: dict[str, Any], otherwise: BaseSampler) -> None:
        self._params, self._otherwise = params, otherwise

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the given value, or a random one."""
        if param_name in self._params:
            return self._params[param_name]
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def propose_with_gp(space: SearchSpace, study: optuna.Study, seed: int) -> dict[str, Any]:
    """Return the proposal of Optuna's Gaussian process, which runs in a helper process because it imports torch.

    Raises:
        UserError: The helper process failed.
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
