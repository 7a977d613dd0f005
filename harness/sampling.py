"""A search space and an Optuna trial -> the configuration of a trial."""

import hashlib
from typing import Any

import optuna

from harness.spec.space import Distribution, Pruner, Sampler, SearchSpace, is_integer
from harness.spec.trial import TrialConfig, applies

SEPARATOR = "+"  # between the members of a choice that is a list: Optuna stores plain values only


def configuration(space: SearchSpace, trial: optuna.Trial) -> TrialConfig:
    """Ask the trial for each sampled setting that applies, and join them with the fixed ones.

    A setting that the trial holds already keeps its value, so that an interrupted trial can be completed.
    """
    sampled: dict[str, Any] = {}
    for name in space.order():
        if applies(name, {**space.fixed, **sampled}):
            sampled[name] = _suggest(trial, name, space.sampled[name])
    return TrialConfig.parse(space.joined(sampled), f"trial {trial.number}")


def _suggest(trial: optuna.Trial, name: str, dimension: Distribution) -> Any:
    if dimension.choices is not None:
        by_plain = {_plain(choice): choice for choice in dimension.choices}
        return by_plain[trial.suggest_categorical(name, list(by_plain))]
    assert dimension.low is not None and dimension.high is not None
    if is_integer(name):
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _plain(choice: object) -> bool | int | float | str | None:
    if isinstance(choice, tuple):
        return SEPARATOR.join(str(part) for part in choice)
    assert choice is None or isinstance(choice, bool | int | float | str)
    return choice


def make_sampler(sampler: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial, seeded by study and trial number.

    One sampler for all would draw the same again after a restart (a fresh TPESampler(seed=1) does).
    """
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    fresh = int.from_bytes(digest[:4], "big")
    if sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=fresh)
    return optuna.samplers.TPESampler(seed=fresh, n_startup_trials=sampler.n_startup_trials)


def make_pruner(pruner: Pruner) -> optuna.pruners.BasePruner:
    """The pruner; values are reported at `rung_step`."""
    if pruner.name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=pruner.reduction_factor, min_early_stopping_rate=0
    )


def rung_step(pruner: Pruner, index: int) -> int:
    """The step under which rung `index` is reported: where successive halving has that rung, whatever its budget."""
    return int(pruner.reduction_factor**index)
