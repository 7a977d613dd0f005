"""Define the recipe of a baseline, and adapt it to the budget and device of a study."""

from typing import Any, Self

from pydantic import Field, model_validator

from harness.spec.base import Spec
from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig

FAIR_EXAMPLES = 1200  # with fewer, comparing with a recipe is not fair


class Recipe(Spec):
    """A file of baselines/."""

    description: str
    source: str = Field(description="the document that the settings come from")
    model: str | None = Field(None, description="the base model as published; unset: any")
    task: str | None = Field(None, description="the published data as --task names it; FOLDER means its location")
    config: TrialConfig
    steps: int | None = Field(None, ge=1, description="optimizer steps of the recipe as published")
    epochs: int | None = Field(None, ge=1, description="the same, in passes over the training data")
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="evaluations as published; unset: the budget's rungs"
    )
    evaluate_every_epochs: int | None = Field(None, ge=1, description="the same, in epochs")
    notes: tuple[str, ...] = Field((), description="remarks for readers of its results")
    cpu_fallback: dict[str, Any] = Field({}, description="settings that replace those that need a GPU")

    @model_validator(mode="after")
    def _check_cpu_fallback(self) -> Self:
        self._on_cpu()
        return self

    @model_validator(mode="after")
    def _check_evaluations(self) -> Self:
        for length, every in ((self.steps, self.evaluate_every_steps), (self.epochs, self.evaluate_every_epochs)):
            if every is not None and (length is None or length % every):
                raise ValueError(f"evaluations every {every} do not divide a length of {length}")
        return self

    def _on_cpu(self) -> TrialConfig:
        return TrialConfig.model_validate({**self.config.settings(), **self.cpu_fallback})

    def with_published_rungs(self, budget: Budget) -> Budget:
        """Return the budget with the recipe's evaluations as rungs, at the same fractions of training."""
        length = self.steps if self.evaluate_every_steps else self.epochs
        every = self.evaluate_every_steps or self.evaluate_every_epochs
        if length is None or every is None:
            return budget
        count = min(length // every, budget.schedule_steps(self.config.effective_batch_size))
        rungs = tuple((index + 1) / count for index in range(count))
        return budget.model_copy(update={"rungs": rungs})

    def adapt(
        self, budget: Budget, device: str, model: str | None = None, processes: int = 1
    ) -> tuple[TrialConfig, list[str]]:
        """Adapt the recipe to a study.

        A published warm-up is scaled by budget steps / recipe steps: without that, 500 warm-up steps would not end
        within a short budget, and the comparison would not be fair.

        Args:
            budget: Budget of the study.
            device: cpu or cuda.
            model: Base model of the study; a note says if it is not the recipe's.
            processes: Data-parallel processes of a trial; they multiply its effective batch.

        Returns:
            The configuration to run, and notes on its differences from the recipe.
        """
        notes = []
        config = self.config
        if self.model is not None and model is not None and model != self.model:
            notes.append(f"on {model} instead of {self.model}")
        if config.refused_on(device) and self.cpu_fallback:
            config = self._on_cpu()
            notes.append("on CPU: " + ", ".join(f"{key} {value}" for key, value in self.cpu_fallback.items()))
        if budget.train_seconds is not None:
            return self._with_warmup_ratio(config), [*notes, *self.notes]
        batch_size = config.effective_batch_size * processes
        steps = budget.schedule_steps(batch_size)
        if self.steps is not None and steps < self.steps:
            notes.append(f"{steps} of the recipe's {self.steps} steps")
            if config.warmup_steps:
                scaled = max(1, round(config.warmup_steps * steps / self.steps))
                notes.append(f"warm-up {scaled} instead of {config.warmup_steps}")
                config = config.model_copy(update={"warmup_steps": scaled})
        elif self.steps is not None and steps > self.steps:
            notes.append(f"{steps} steps, more than the recipe's {self.steps}")
        elif self.epochs is not None and self.steps is None:
            notes.append(f"{budget.describe()} ({steps} steps) instead of {self.epochs} epochs")
        examples = budget.total_examples(batch_size)
        if config.method != "none" and examples is not None and examples < FAIR_EXAMPLES:
            notes.append(f"fewer than {FAIR_EXAMPLES} examples: too few to judge a recipe by")
        return config, [*notes, *self.notes]

    def _with_warmup_ratio(self, config: TrialConfig) -> TrialConfig:
        """Convert warm-up steps to a ratio: the number of steps of a budget in seconds is not known before."""
        if config.warmup_steps is None or self.steps is None:
            return config
        ratio = min(1.0, config.warmup_steps / self.steps)
        return config.model_copy(update={"warmup_steps": None, "warmup_ratio": ratio})
