"""Define a search space: fixed settings, distributions of sampled settings, budget, sampler and pruner."""

import itertools
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.errors import nearest
from harness.spec.base import Spec, describe_errors
from harness.spec.budget import Budget
from harness.spec.limits import Limits, Objective
from harness.spec.rung_evaluation import RungMetric
from harness.spec.trial import CONDITIONS, TrialConfig, applies

SamplerName = Literal["tpe", "random", "grid", "gp", "cmaes", "nsga2"]
PrunerName = Literal["successive_halving", "hyperband", "median", "patient", "wilcoxon", "none"]


class Distribution(Spec):
    """Distribution of one setting, as in Optuna: `choices`, or `low` and `high` with `log` or `step`."""

    choices: tuple[Any, ...] | None = Field(None, min_length=1)
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(None, gt=0)

    @field_validator("choices")
    @classmethod
    def _make_hashable(cls, choices: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if choices is None else tuple(tuple(c) if isinstance(c, list) else c for c in choices)

    @model_validator(mode="after")
    def _check_complete(self) -> Self:
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
        """Return the values to validate: every choice, or both ends of the range."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]


class Sampler(Spec):
    """The sampler, which proposes the next configuration."""

    name: SamplerName = "tpe"
    n_startup_trials: int = Field(10, ge=0, description="random trials before TPE, GP or CMA-ES use their model")
    grid_points: int = Field(3, ge=2, description="grid: number of points in a range without step, both ends included")


class Pruner(Spec):
    """The pruner, which stops trials at rungs."""

    name: PrunerName = "successive_halving"
    reduction_factor: int = Field(2, ge=2, description="one in so many trials continues after a rung")
    n_startup_trials: int = Field(5, ge=0, description="median: number of first trials that are never pruned")
    patience: int = Field(1, ge=0, description="patient: number of tolerated rungs without improvement")
    chunk: int = Field(16, ge=1, description="wilcoxon: number of utterances between two tests")
    p_threshold: float = Field(0.05, gt=0, lt=1, description="wilcoxon: prune a trial if p is below this")
    margin: float = Field(
        0.01, ge=0, description="several objectives: WER difference from which a dominated trial is pruned"
    )


class SearchSpace(Spec):
    """A file of search_spaces/; options of the command line override its values."""

    description: str
    model: str = Field(description="a folder, a hub name such as openai/whisper-small, or demo")
    task: str = Field(description="a task's name or a folder of speech")
    budget: Budget
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    judge: RungMetric = Field(
        "wer", description="before the last rung: decode for the WER, or only compute the teacher-forced loss"
    )
    rung_utterances: int | None = Field(
        None, ge=1, description="number of validation utterances evaluated before the last rung; unset: all"
    )
    limits: Limits = Limits()
    objectives: tuple[Objective, ...] = Field(("wer",), min_length=1, description="what is minimized; must include wer")
    baselines: tuple[str, ...] = ()
    fixed: dict[str, Any] = Field(default_factory=dict)
    sampled: dict[str, Distribution] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        for name in [*self.fixed, *self.sampled]:
            if name not in TrialConfig.model_fields:
                raise ValueError(f"{name!r} is not a setting of a trial; {nearest(name, TrialConfig.model_fields)}")
        both = set(self.fixed) & set(self.sampled)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is both fixed and sampled")
        return self

    @model_validator(mode="after")
    def _search_can_work(self) -> Self:
        """Refuse a sampler or pruner that cannot search this space."""
        sampler, pruner = self.sampler.name, self.pruner.name
        if "wer" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives must contain wer, and each only once, not {', '.join(self.objectives)}")
        dependent = [name for name in self.sampled if name in CONDITIONS and CONDITIONS[name][0] in self.sampled]
        if sampler == "grid" and dependent:
            raise ValueError(
                f"a grid cannot contain {', '.join(dependent)}, which depends on another sampled setting; "
                "use tpe, random, gp, cmaes or nsga2, or a grid for each"
            )
        if sampler == "cmaes":
            if len(self.objectives) > 1:
                raise ValueError("cmaes supports one objective; for several use tpe, gp, nsga2, random or grid")
            if all(dimension.choices is not None for dimension in self.sampled.values()):
                raise ValueError("cmaes needs a range (low and high); all sampled settings here have choices")
        if self.judge == "loss" and pruner == "wilcoxon":
            raise ValueError("the wilcoxon pruner needs decoded utterances; it cannot be used with judge: loss")
        if len(self.objectives) > 1 and pruner in ("hyperband", "median", "patient"):
            raise ValueError(
                f"with several objectives, trials are pruned if finished ones dominate them, which pruner {pruner} "
                "does not support: use successive_halving (which that rule then replaces), wilcoxon or none"
            )
        return self

    @model_validator(mode="after")
    def _check_warm_up(self) -> Self:
        if self.budget.train_seconds is not None and "warmup_steps" in {*self.fixed, *self.sampled}:
            raise ValueError(
                "a budget in seconds has no known number of steps: give warmup_ratio instead of warmup_steps"
            )
        return self

    @model_validator(mode="after")
    def _check_extremes(self) -> Self:
        """Validate a configuration for each pair of extremes, so that invalid ones are refused before any trial.

        Pairs are enough, because no rule of TrialConfig involves three settings.
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
            TrialConfig.model_validate(self.with_fixed(sampled))
        except ValidationError as error:
            raise ValueError(describe_errors(error, f"with {where}", TrialConfig)) from None

    def refused_on(self, device: str) -> str | None:
        """Return why part of the space cannot run on a device (cpu, cuda), or None."""
        first = {name: dimension.extremes()[0] for name, dimension in self.sampled.items()}
        for name, dimension in self.sampled.items():
            for value in dimension.extremes():
                config = TrialConfig.model_validate(self.with_fixed({**first, name: value}))
                if refusal := config.refused_on(device):
                    return refusal
        return None

    def with_fixed(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Combine sampled with fixed settings, without those that do not apply together with the others."""
        values = {**self.fixed, **sampled}
        return {name: value for name, value in values.items() if applies(name, values)}

    def sampling_order(self) -> list[str]:
        """Return the sampled settings, those first on which others depend."""
        conditions = {other for other, _ in CONDITIONS.values()}
        return sorted(self.sampled, key=lambda name: name not in conditions)


def is_integer(field: str) -> bool:
    """Whether a setting of a trial takes whole numbers, so that its distribution is an integer one."""
    return int in (TrialConfig.model_fields[field].annotation, *get_args(TrialConfig.model_fields[field].annotation))
