"""How much a trial may see, and where on the way it is judged."""

import math
from typing import Self

from pydantic import Field, model_validator

from harness.spec.base import Spec


class Budget(Spec):
    """A budget in examples seen, so that batch size does not change how much a trial sees."""

    examples: int = Field(ge=1, description="training examples a trial sees, repeats counted")
    rungs: tuple[float, ...] = Field(
        (1.0,), description="fractions of the budget at which a trial is evaluated on validation; the last is 1"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.rungs or self.rungs[-1] != 1.0 or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0:
            raise ValueError("rungs must be increasing fractions above 0 that end with 1.0, such as [0.25, 0.5, 1.0]")
        return self

    def steps(self, effective_batch_size: int) -> int:
        """Optimizer steps; the last batch is cut so that exactly `examples` are seen."""
        return math.ceil(self.examples / effective_batch_size)

    def rung_steps(self, effective_batch_size: int) -> list[int]:
        """The optimizer step after which each rung is evaluated."""
        return [math.ceil(fraction * self.examples / effective_batch_size) for fraction in self.rungs]
