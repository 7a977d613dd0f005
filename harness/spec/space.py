"""A search space: what is fixed, what is sampled and from which distribution, under which budget."""

import itertools
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.errors import nearest
from harness.spec.base import Spec, describe
from harness.spec.budget import Budget
from harness.spec.limits import Limits, Objective
from harness.spec.rung_evaluation import RungMetric
from harness.spec.trial import CONDITIONS, TrialConfig, applies

SamplerName = Literal["tpe", "random", "grid", "gp", "cmaes", "nsga2"]
PrunerName = Literal["successive_halving", "hyperband", "median", "patient", "wilcoxon", "none"]


class Distribution(Spec):
    """One dimension, with Optuna's words: `choices`, or `low` and `high` with `log` or `step`."""

    choices: tuple[Any, ...] | None = Field(None, min_length=1)
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(None, gt=0)

    @field_validator("choices")
    @classmethod
    def _hashable(cls, choices: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if choices is None else tuple(tuple(c) if isinstance(c, list) else c for c in choices)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        ends = (self.low, self.high)
        if (self.choices is None) == (ends == (None, None)):
            raise ValueError("give either choices, or low and high")
        if self.choices is not None:
            if self.log or self.step is not None:
                raise ValueError("log and step go with low and high, not with choices")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError("low and high are both needed, and low must not be above high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        return self

    def extremes(self) -> list[Any]:
        """The values that decide whether the whole dimension is valid: every choice, or both ends."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]


class Sampler(Spec):
    """Who proposes the next configuration."""

    name: SamplerName = "tpe"
    n_startup_trials: int = Field(10, ge=0, description="random trials before TPE, GP or CMA-ES begin to model")
    grid_points: int = Field(3, ge=2, description="grid: points of a range that has no step, both ends among them")


class Pruner(Spec):
    """Who stops a trial at a rung."""

    name: PrunerName = "successive_halving"
    reduction_factor: int = Field(2, ge=2, description="one trial in this many goes on to the next rung")
    n_startup_trials: int = Field(5, ge=0, description="median: trials that are not stopped")
    patience: int = Field(1, ge=0, description="patient: rungs without an improvement that are forgiven")
    chunk: int = Field(16, ge=1, description="wilcoxon: utterances between two looks")
    p_threshold: float = Field(0.05, gt=0, lt=1, description="wilcoxon: a trial has lost where p is below")
    margin: float = Field(0.01, ge=0, description="several objectives: WER by which a dominated trial must be worse")


class SearchSpace(Spec):
    """A file of search_spaces/: what a sweep does when no option says otherwise."""

    description: str
    model: str = Field(description="a folder, a hub name such as openai/whisper-small, or demo")
    task: str = Field(description="a task's name or a folder of speech")
    budget: Budget
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    judge: RungMetric = Field(
        "wer", description="before the last rung: decode for WER, or the teacher-forced loss alone"
    )
    rung_utterances: int | None = Field(None, ge=1, description="validation utterances judged before the last rung")
    limits: Limits = Limits()
    objectives: tuple[Objective, ...] = Field(("wer",), min_length=1, description="what is minimised; wer among them")
    baselines: tuple[str, ...] = ()
    fixed: dict[str, Any] = Field(default_factory=dict)
    sampled: dict[str, Distribution] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_fields(self) -> Self:
        for name in [*self.fixed, *self.sampled]:
            if name not in TrialConfig.model_fields:
                raise ValueError(f"{name!r} is no setting of a trial; {nearest(name, TrialConfig.model_fields)}")
        both = set(self.fixed) & set(self.sampled)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is both fixed and sampled")
        return self

    @model_validator(mode="after")
    def _search_can_work(self) -> Self:
        """Refuse a sampler or pruner that cannot search this space, with the reason."""
        sampler, pruner = self.sampler.name, self.pruner.name
        if "wer" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives hold wer once, and others once each, not {', '.join(self.objectives)}")
        dependent = [name for name in self.sampled if name in CONDITIONS and CONDITIONS[name][0] in self.sampled]
        if sampler == "grid" and dependent:
            raise ValueError(
                f"a grid has no place for {', '.join(dependent)}, which depends on another sampled setting; "
                "use tpe, random, gp, cmaes or nsga2, or a grid for each"
            )
        if sampler == "cmaes":
            if len(self.objectives) > 1:
                raise ValueError("cmaes has one objective; for several use tpe, gp, nsga2, random or grid")
            if all(dimension.choices is not None for dimension in self.sampled.values()):
                raise ValueError("cmaes needs a range (low and high) to search; every dimension here has choices")
        if self.judge == "loss" and pruner == "wilcoxon":
            raise ValueError("the wilcoxon pruner looks at decoded utterances; it does not go with judge loss")
        if len(self.objectives) > 1 and pruner in ("hyperband", "median", "patient"):
            raise ValueError(
                f"with several objectives a trial is stopped when finished ones dominate it; pruner {pruner} cannot "
                "judge that: use successive_halving (that rule then replaces it), wilcoxon or none"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_by_the_clock(self) -> Self:
        if self.budget.train_seconds is not None and "warmup_steps" in {*self.fixed, *self.sampled}:
            raise ValueError("under a budget in seconds nobody knows how many steps there are: give warmup_ratio")
        return self

    @model_validator(mode="after")
    def _valid_everywhere(self) -> Self:
        """Build a configuration for each pair of extremes, so that what cannot work fails here, not in a trial.

        Pairs are enough: no rule of TrialConfig ties three settings together.
        """
        for name, dimension in self.sampled.items():
            if is_integer(name) and any(v is not None and v != int(v) for v in dimension.extremes()):
                raise ValueError(f"{name} takes whole numbers, but {dimension.extremes()} was given")
        first = {name: dimension.extremes()[0] for name, dimension in self.sampled.items()}
        extremes = [(name, value) for name, dimension in self.sampled.items() for value in dimension.extremes()]
        for one, other in itertools.combinations_with_replacement(extremes, 2):
            if one[0] != other[0] or one == other:
                self._check({**first, **dict([one, other])}, f"{one[0]} {one[1]!r}, {other[0]} {other[1]!r}")
        return self

    def _check(self, sampled: dict[str, Any], where: str) -> None:
        try:
            TrialConfig.model_validate(self.joined(sampled))
        except ValidationError as error:
            raise ValueError(describe(error, f"with {where}", TrialConfig)) from None

    def refused_on(self, device: str) -> str | None:
        """Why part of the space cannot run on a device (cpu, cuda), or None."""
        first = {name: dimension.extremes()[0] for name, dimension in self.sampled.items()}
        for name, dimension in self.sampled.items():
            for value in dimension.extremes():
                config = TrialConfig.model_validate(self.joined({**first, name: value}))
                if refusal := config.refused_on(device):
                    return refusal
        return None

    def joined(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Fixed and sampled settings, without those that do not apply beside the others."""
        values = {**self.fixed, **sampled}
        return {name: value for name, value in values.items() if applies(name, values)}

    def order(self) -> list[str]:
        """The sampled settings, those first on which others depend."""
        deciding = {other for other, _ in CONDITIONS.values()}
        return sorted(self.sampled, key=lambda name: name not in deciding)


def is_integer(field: str) -> bool:
    """Whether a setting of a trial takes whole numbers, which makes its distribution an integer one."""
    return int in (TrialConfig.model_fields[field].annotation, *get_args(TrialConfig.model_fields[field].annotation))
