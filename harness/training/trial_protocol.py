"""Define what a running trial yields to its caller, and what it is sent in return.

A trial is a generator, so that the caller decides when it continues:

| yields | when | is sent |
|---|---|---|
| `Report` | a rung was evaluated | bool: whether to continue; ignored after the last rung |
| `Partial` | part of a rung was evaluated | bool: whether to continue |
| `GradientRequest` | a packed trial needs the gradients of a step | Tensor: the step's loss, once they are set |

It returns its result when it has ended.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from accelerate import Accelerator
from torch import Tensor, nn

from harness.data.batches import Step
from harness.hardware.clock import Clock
from harness.hardware.memory import SharedPeakMemory
from harness.spec.messages import Partial, Report
from harness.spec.trial import TrialConfig


@dataclass
class PackedUsage:
    """Training time, energy and memory of one packed trial: its own, plus its share of each common pass.

    Attributes:
        clock: Time and energy of training.
        peaks: Peak memory.
        most_trials: The largest number of trials that trained in one pass, this one included.
    """

    clock: Clock
    peaks: SharedPeakMemory
    most_trials: int = 1

    def add_pass(self, clock: Clock, trials: int, memory_before: int) -> None:
        """Add an equal share of one pass.

        Args:
            clock: Time and energy of the pass.
            trials: How many trials it trained.
            memory_before: Bytes that the process held before any of the trials.
        """
        self.most_trials = max(self.most_trials, trials)
        self.clock.seconds += clock.seconds / trials
        if self.clock.joules is not None:
            self.clock.joules += (clock.joules or 0.0) / trials
        self.peaks.add_share(memory_before, trials)


@dataclass(frozen=True)
class GradientRequest:
    """Request of a packed trial for the gradients of one step.

    Attributes:
        step: The batches.
        model: The trial's PeftModel, whose parameters receive the gradients.
        config: The trial's configuration.
        accelerator: The trial's accelerator, for its precision.
        usage: Where to add the trial's share of the pass.
    """

    step: Step
    model: nn.Module
    config: TrialConfig
    accelerator: Accelerator
    usage: PackedUsage


T = TypeVar("T")
Yielded = Report | Partial | GradientRequest
Sent = bool | Tensor | None
Trial = Generator[Yielded, Sent, T]
