"""Warm-start a search with the configurations of baselines, or the best of an earlier study."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import UserError
from harness.plan import Plan
from harness.records.study_folder import Run, open_study
from harness.search.sampling import optuna_choice
from harness.search.study import Study
from harness.spec.space import Distribution, SearchSpace
from harness.spec.trial import TrialConfig, applies

BASELINES = "baselines"
BEST = 3  # configurations taken from an earlier study


def warm_start(plan: Plan, study: Study, baselines: Sequence[Run], say: Callable[[str], None]) -> None:
    """Enqueue the configurations of `--warm-start` in a study that has no trial yet, and report what does not fit.

    Optuna itself would accept unknown settings silently, and only warn of values out of range.

    Args:
        plan: The sweep's plan.
        study: The study to begin.
        baselines: The runs of the baselines, adapted to the study's budget and device.
        say: Called with each line of the report.
    """
    if study.optuna.get_trials(deepcopy=False):
        return
    for name, config in _sources(plan, baselines):
        params, left_out = fit_to_space(plan.space, config)
        if params and not any(reason.startswith("method") for reason in left_out):
            study.optuna.enqueue_trial(params, user_attrs={"warm_start": name})
            said = f"; left out: {', '.join(left_out)}" if left_out else ""
            say(f"begins with {name}: {', '.join(params)}{said}")
        else:
            say(f"{name} does not fit the space: {', '.join(left_out) or 'it samples nothing of it'}")


def _sources(plan: Plan, baselines: Sequence[Run]) -> list[tuple[str, TrialConfig]]:
    found = []
    for source in plan.search_options.warm_start:
        if source == BASELINES:
            found += [(run.name, run.config) for run in baselines if run.kind == "recipe" and run.number is None]
            continue
        if source == plan.study:
            raise UserError(f"study {source!r} cannot be its own --warm-start")
        records = [record for _, record in open_study(plan.results, source).records()]
        trials = [r for r in records if r.kind == "trial" and r.state == "complete" and r.scores]
        trials.sort(key=lambda r: (r.scores.wer if r.scores else 0.0, r.number or 0))
        if not trials:
            raise UserError(f"study {source!r} has no completed trial to begin with")
        found += [(f"{source}/{record.name}", record.config) for record in trials[:BEST]]
    return found


def fit_to_space(space: SearchSpace, config: TrialConfig) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a configuration that the space can sample, and which it cannot and why."""
    params: dict[str, Any] = {}
    left_out = []
    for name, fixed in space.fixed.items():
        value = getattr(config, name)
        if name == "method" and value != fixed:
            left_out.append(f"method {value} (fixed to {fixed})")
    values = {**space.fixed, **{name: _value(config, name) for name in space.sampled}}
    for name in space.sampling_order():
        value = values[name]
        if not applies(name, values):
            continue
        if value is None or not _within(space.sampled[name], value):
            left_out.append(f"{name} {_shown(value)}")
        else:
            params[name] = optuna_choice(value)
    return params, left_out


def _value(config: TrialConfig, name: str) -> Any:
    """Return a setting; the LoRA scale in the form that the space samples."""
    if name == "alpha_over_r" and config.alpha and config.r:
        return config.alpha / config.r
    return config.alpha if name == "lora_alpha" else getattr(config, name)


def _within(dimension: Distribution, value: Any) -> bool:
    if dimension.choices is not None:
        return optuna_choice(value) in [optuna_choice(choice) for choice in dimension.choices]
    assert dimension.low is not None and dimension.high is not None
    if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    steps = (value - dimension.low) / dimension.step if dimension.step else 0.0
    return abs(steps - round(steps)) < 1e-6


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | tuple | list):
        return str(optuna_choice(value))
    return "unset" if value is None else f"{value}"
