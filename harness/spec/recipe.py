"""A fixed recipe of baselines/: a configuration, where it comes from, and how it is cut to a budget."""

from typing import Any, Self

from pydantic import Field, model_validator

from harness.spec.base import Spec
from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig

FAIR_EXAMPLES = 1200  # with fewer a recipe is a straw man


class Recipe(Spec):
    """A file of baselines/."""

    description: str
    source: str = Field(description="the document that the settings come from")
    model: str | None = Field(None, description="the base model as published; unset: any")
    task: str | None = Field(None, description="the published data as --task names it, FOLDER being where it lies")
    config: TrialConfig
    steps: int | None = Field(None, ge=1, description="optimizer steps of the recipe as published")
    epochs: int | None = Field(None, ge=1, description="the same in passes over the training data")
    evaluate_every_steps: int | None = Field(None, ge=1, description="evaluations as published; unset: the budget's")
    evaluate_every_epochs: int | None = Field(None, ge=1, description="the same in epochs")
    notes: tuple[str, ...] = Field((), description="what a reader of its row must know")
    cpu_fallback: dict[str, Any] = Field({}, description="settings that replace those that need a GPU")

    @model_validator(mode="after")
    def _fallback_is_valid(self) -> Self:
        self._on_cpu()
        return self

    @model_validator(mode="after")
    def _evaluations_fit(self) -> Self:
        for length, every in ((self.steps, self.evaluate_every_steps), (self.epochs, self.evaluate_every_epochs)):
            if every is not None and (length is None or length % every):
                raise ValueError(f"an evaluation each {every} does not divide a length of {length}")
        return self

    def _on_cpu(self) -> TrialConfig:
        return TrialConfig.model_validate({**self.config.settings(), **self.cpu_fallback})

    def judged(self, budget: Budget) -> Budget:
        """The budget with as many evaluations as were published, at the same fractions of the way."""
        length = self.steps if self.evaluate_every_steps else self.epochs
        every = self.evaluate_every_steps or self.evaluate_every_epochs
        if length is None or every is None:
            return budget
        times = min(length // every, budget.schedule_steps(self.config.effective_batch_size))
        rungs = tuple((index + 1) / times for index in range(times))
        return budget.model_copy(update={"rungs": rungs})

    def under(
        self, budget: Budget, device: str, model: str | None = None, processes: int = 1
    ) -> tuple[TrialConfig, list[str]]:
        """The configuration as it will run on `device` under `budget`, and notes on what differs from the recipe.

        A published warm-up is scaled by budget steps / recipe steps: unscaled, 500 warm-up steps would
        never end within a short budget, and the recipe would be a straw man.

        Args:
            budget: what the study gives every system.
            device: cpu or cuda.
            model: the study's base, to be told apart from the recipe's.
            processes: of a trial; they multiply its effective batch.
        """
        notes = []
        config = self.config
        if self.model is not None and model is not None and model != self.model:
            notes.append(f"on {model} instead of {self.model}")
        if config.refused_on(device) and self.cpu_fallback:
            config = self._on_cpu()
            notes.append("on CPU: " + ", ".join(f"{key} {value}" for key, value in self.cpu_fallback.items()))
        if budget.train_seconds is not None:
            return self._by_the_clock(config), [*notes, *self.notes]
        batch_size = config.effective_batch_size * processes
        steps = budget.schedule_steps(batch_size)
        if self.steps is not None and steps < self.steps:
            notes.append(f"{steps} of the recipe's {self.steps} steps")
            if config.warmup_steps:
                scaled = max(1, round(config.warmup_steps * steps / self.steps))
                notes.append(f"warm-up {scaled} instead of {config.warmup_steps}")
                config = config.model_copy(update={"warmup_steps": scaled})
        elif self.epochs is not None and self.steps is None:
            notes.append(f"{budget.described()} ({steps} steps) instead of {self.epochs} epochs")
        seen = budget.examples_in_all(batch_size)
        if config.method != "none" and seen is not None and seen < FAIR_EXAMPLES:
            notes.append(f"fewer than {FAIR_EXAMPLES} examples: too few to judge a recipe by")
        return config, [*notes, *self.notes]

    def _by_the_clock(self, config: TrialConfig) -> TrialConfig:
        """The same warm-up as a share of the schedule: how many steps fit into the seconds is not known before."""
        if config.warmup_steps is None or self.steps is None:
            return config
        ratio = min(1.0, config.warmup_steps / self.steps)
        return config.model_copy(update={"warmup_steps": None, "warmup_ratio": ratio})
