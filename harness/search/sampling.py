"""A search space and an Optuna trial -> the configuration of a trial."""

from typing import Any

import optuna

from harness.spec.space import Distribution, SearchSpace, is_integer
from harness.spec.trial import TrialConfig, applies


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
        by_plain = {optuna_choice(choice): choice for choice in dimension.choices}
        return by_plain[trial.suggest_categorical(name, list(by_plain))]
    assert dimension.low is not None and dimension.high is not None
    if is_integer(name):
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def optuna_choice(choice: object) -> bool | int | float | str | None:
    """A choice as Optuna stores it: the members of a list joined by a plus."""
    if isinstance(choice, tuple | list):
        return "+".join(str(part) for part in choice)
    assert choice is None or isinstance(choice, bool | int | float | str)
    return choice
