"""A fixed recipe of baselines/: a configuration, where it comes from, and how it is cut to a budget."""

from typing import Any, Self

from pydantic import Field, model_validator

from harness.spec.base import Spec
from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig


class Recipe(Spec):
    """A file of baselines/."""

    description: str
    source: str = Field(description="the document that the settings come from")
    config: TrialConfig
    steps: int | None = Field(None, ge=1, description="optimizer steps of the recipe as published")
    cpu_fallback: dict[str, Any] = Field({}, description="settings that replace those that need a GPU")

    @model_validator(mode="after")
    def _fallback_is_valid(self) -> Self:
        self._on_cpu()
        return self

    def _on_cpu(self) -> TrialConfig:
        return TrialConfig.model_validate({**self.config.settings(), **self.cpu_fallback})

    def under(self, budget: Budget, device: str) -> tuple[TrialConfig, list[str]]:
        """The configuration as it will run on `device` under `budget`, and notes on what differs from the recipe.

        A published warm-up is scaled by budget steps / recipe steps: unscaled, 500 warm-up steps would
        never end within a short budget, and the recipe would be a straw man.
        """
        notes = []
        config = self.config
        if config.refused_on(device) and self.cpu_fallback:
            config = self._on_cpu()
            notes.append("on CPU: " + ", ".join(f"{key} {value}" for key, value in self.cpu_fallback.items()))
        steps = budget.steps(config.effective_batch_size)
        if self.steps is not None and steps < self.steps:
            notes.append(f"{steps} of the recipe's {self.steps} steps")
            if config.warmup_steps:
                scaled = max(1, round(config.warmup_steps * steps / self.steps))
                notes.append(f"warm-up {scaled} instead of {config.warmup_steps}")
                config = config.model_copy(update={"warmup_steps": scaled})
        return config, notes
