"""Sample the configuration of an Optuna trial from a search space."""

from typing import Any

import optuna

from harness.spec.space import Distribution, SearchSpace, is_integer
from harness.spec.trial import TrialConfig, applies


def suggest_configuration(space: SearchSpace, trial: optuna.Trial) -> TrialConfig:
    """Suggest each sampled setting that applies, and add the fixed ones.

    A setting that the trial already has keeps its value, so an interrupted trial can be completed.
    """
    sampled: dict[str, Any] = {}
    for name in space.sampling_order():
        if applies(name, {**space.fixed, **sampled}):
            sampled[name] = _suggest(trial, name, space.sampled[name])
    return TrialConfig.parse(space.with_fixed(sampled), f"trial {trial.number}")


def _suggest(trial: optuna.Trial, name: str, dimension: Distribution) -> Any:
    if dimension.choices is not None:
        choices = {optuna_choice(choice): choice for choice in dimension.choices}
        return choices[trial.suggest_categorical(name, list(choices))]
    assert dimension.low is not None and dimension.high is not None
    if is_integer(name):
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def optuna_choice(choice: object) -> bool | int | float | str | None:
    """Return a choice as Optuna stores it; the members of a list are joined by "+"."""
    if isinstance(choice, tuple | list):
        return "+".join(str(part) for part in choice)
    assert choice is None or isinstance(choice, bool | int | float | str)
    return choice
