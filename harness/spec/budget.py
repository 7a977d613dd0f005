"""Define the training budget of a trial, and the rungs at which it is evaluated."""

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from harness.spec.base import Spec

TIMED_STEPS = 1000  # a budget in seconds is divided into so many parts, which schedule and rungs count as steps
UNITS = ("examples", "epochs", "steps", "train_seconds")


class Budget(Spec):
    """A training budget in one of four units.

    With `examples` or `epochs`, the amount of training data does not depend on the batch size. With `steps` or
    `train_seconds` it differs between configurations: use these only if that is what you study.
    """

    examples: int | None = Field(None, ge=1, description="training examples of a trial, repetitions included")
    epochs: float | None = Field(None, gt=0, description="the same, in passes over the training split")
    steps: int | None = Field(None, ge=1, description="optimizer steps")
    train_seconds: float | None = Field(None, gt=0, description="seconds of training, without evaluation")
    rungs: tuple[float, ...] = Field(
        (1.0,), description="fractions of the budget after which a trial is evaluated on validation; the last is 1"
    )

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        given = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(f"give the budget in one of {', '.join(UNITS)}; given: {', '.join(given) or 'none'}")
        return self

    @model_validator(mode="after")
    def _check_rungs(self) -> Self:
        if not self.rungs or self.rungs[-1] != 1.0 or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0:
            raise ValueError("rungs must be increasing fractions above 0 that end with 1.0, such as [0.25, 0.5, 1.0]")
        return self

    def resolved(self, train_utterances: int) -> Self:
        """Return the budget with epochs converted to examples."""
        if self.epochs is None:
            return self
        examples = max(1, round(self.epochs * train_utterances))
        return self.model_copy(update={"examples": examples, "epochs": None})

    def schedule_steps(self, effective_batch_size: int) -> int:
        """Return the length of the learning-rate schedule: optimizer steps, or the parts of a budget in seconds.

        The last batch of a budget in examples is shortened to match it exactly.
        """
        return self._steps_at(1.0, effective_batch_size)

    def rung_steps(self, effective_batch_size: int) -> list[int]:
        """Return the step of the schedule at which each rung is evaluated."""
        return [self._steps_at(fraction, effective_batch_size) for fraction in self.rungs]

    def _steps_at(self, fraction: float, effective_batch_size: int) -> int:
        if self.train_seconds is not None:
            return math.ceil(fraction * TIMED_STEPS)
        if self.steps is not None:
            return math.ceil(fraction * self.steps)
        if self.examples is None:
            raise ValueError("a budget in epochs must be resolved first")
        return math.ceil(fraction * self.examples / effective_batch_size)

    def position(self, step: int, seconds: float) -> int:
        """Return the position on the schedule after `step` optimizer steps and `seconds` of training."""
        return step if self.train_seconds is None else int(seconds / self.train_seconds * TIMED_STEPS)

    def total_examples(self, effective_batch_size: int) -> int | None:
        """Return the number of examples of a trial; None for a budget in seconds."""
        return self.examples if self.steps is None else self.steps * effective_batch_size

    def describe(self, fraction: float = 1.0) -> str:
        """Return the budget, or a fraction of it, in words: "1536 examples"."""
        unit = next(unit for unit in UNITS if getattr(self, unit) is not None)
        amount = fraction * getattr(self, unit)
        if unit == "train_seconds":
            return f"{amount:g} s of training"
        return f"{math.ceil(amount) if unit != 'epochs' else f'{amount:g}'} {unit}"


def epoch_examples(report: Mapping[str, Any]) -> int:
    """Return how many examples an epoch has, by a data report; an old report does not count the sources' weights."""
    examples: int = report.get("epoch", report["splits"]["train"])["utterances"]
    return examples
