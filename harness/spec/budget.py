"""How much a trial may see, and where on the way it is judged."""

import math
from typing import Self

from pydantic import Field, model_validator

from harness.spec.base import Spec

TIMED_STEPS = 1000  # a budget in seconds is cut into as many parts; schedule and rungs count those
UNITS = ("examples", "epochs", "steps", "train_seconds")


class Budget(Spec):
    """A budget in one unit: examples or epochs, so that batch size does not change how much a trial sees; or others.

    With `steps`, and with `train_seconds`, configurations see different amounts of speech: for studies that are
    about just that.
    """

    examples: int | None = Field(None, ge=1, description="training examples a trial sees, repeats counted")
    epochs: float | None = Field(None, gt=0, description="the same, in passes over the training split")
    steps: int | None = Field(None, ge=1, description="optimizer steps")
    train_seconds: float | None = Field(None, gt=0, description="seconds of training, evaluation not counted")
    rungs: tuple[float, ...] = Field(
        (1.0,), description="fractions of the budget at which a trial is evaluated on validation; the last is 1"
    )

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        given = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(f"a budget is given in one of {', '.join(UNITS)}; here: {', '.join(given) or 'none'}")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.rungs or self.rungs[-1] != 1.0 or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0:
            raise ValueError("rungs must be increasing fractions above 0 that end with 1.0, such as [0.25, 0.5, 1.0]")
        return self

    def resolved(self, train_utterances: int) -> Self:
        """The same budget with epochs counted in examples."""
        if self.epochs is None:
            return self
        examples = max(1, round(self.epochs * train_utterances))
        return self.model_copy(update={"examples": examples, "epochs": None})

    def schedule_steps(self, effective_batch_size: int) -> int:
        """The length of the learning-rate schedule: optimizer steps, or the parts of a budget in seconds.

        The last batch of a budget in examples is cut so that exactly those are seen.
        """
        return self._after(1.0, effective_batch_size)

    def rung_steps(self, effective_batch_size: int) -> list[int]:
        """Where on the schedule each rung is evaluated."""
        return [self._after(fraction, effective_batch_size) for fraction in self.rungs]

    def _after(self, fraction: float, effective_batch_size: int) -> int:
        if self.train_seconds is not None:
            return math.ceil(fraction * TIMED_STEPS)
        if self.steps is not None:
            return math.ceil(fraction * self.steps)
        if self.examples is None:
            raise ValueError("a budget in epochs must be resolved first")
        return math.ceil(fraction * self.examples / effective_batch_size)

    def position(self, step: int, seconds: float) -> int:
        """How far on the schedule training is after `step` optimizer steps and `seconds`."""
        return step if self.train_seconds is None else int(seconds / self.train_seconds * TIMED_STEPS)

    def examples_in_all(self, effective_batch_size: int) -> int | None:
        """Examples a trial sees; None where the clock decides."""
        return self.examples if self.steps is None else self.steps * effective_batch_size

    def described(self, fraction: float = 1.0) -> str:
        """The budget, or a part of it, in words: "1536 examples"."""
        unit = next(unit for unit in UNITS if getattr(self, unit) is not None)
        amount = fraction * getattr(self, unit)
        if unit == "train_seconds":
            return f"{amount:g} s of training"
        return f"{math.ceil(amount) if unit != 'epochs' else f'{amount:g}'} {unit}"
