"""Training loop of all methods: a generator that pauses at each rung, so that the caller can evaluate."""

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from harness.data.batches import Step
from harness.hardware.clock import Clock
from harness.model.loss import token_loss
from harness.spec.budget import Budget

FIRST_STEPS = 2  # timed separately: they warm up kernels and caches
CHECK_EVERY = 10  # steps between checks for a non-finite loss on a GPU


class DivergedError(Exception):
    """The loss or the gradients are no longer finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")


@dataclass(frozen=True)
class TrainingObjects:
    """The objects that a training step changes or uses.

    Attributes:
        model: The model to train.
        optimizer: Its optimizer.
        scheduler: The learning-rate schedule, stepped by the loop.
        accelerator: Device, precision, gradient clipping and processes.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator


@dataclass(frozen=True)
class Progress:
    """State of training at a rung. Checkpoints store it under these names.

    Attributes:
        step: Optimizer steps so far.
        examples: Training examples so far.
        label_tokens: Label tokens so far.
        loss: Mean over the label tokens since the previous rung.
        seconds: Training time so far.
        joules: GPU energy so far; None where it is not measured.
        first_seconds: Seconds of the first steps.
        first_examples: Examples of the first steps.
        together: The largest number of trials that trained in one pass, this one included.
        skipped_steps: Steps so far that the loss scaler of fp16 skipped, because gradients were not finite.
    """

    step: int = 0
    examples: int = 0
    label_tokens: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    joules: float | None = None
    first_seconds: float = 0.0
    first_examples: int = 0
    together: int = 1
    skipped_steps: int = 0


TrainingEvents = Generator[Step | Progress, Tensor | None, None]


def train(
    objects: TrainingObjects,
    steps: Iterable[Step],
    budget: Budget,
    rung_steps: Iterable[int],
    max_grad_norm: float,
    label_smoothing: float = 0.0,
    start: Progress | None = None,
) -> Iterator[Progress]:
    """Train one trial, and yield at each rung; to stop early, stop iterating.

    Args:
        objects: Model, optimizer, schedule and accelerator.
        steps: The batches of each optimizer step.
        budget: How long to train.
        rung_steps: The rungs that are left, as positions in the schedule (see `Budget.position`).
        max_grad_norm: Gradient clipping.
        label_smoothing: Label smoothing of the cross-entropy.
        start: The progress at which an interrupted training resumes.

    Raises:
        DivergedError: If the loss or the gradient norm of a step is not finite.
    """
    start = start or Progress()
    clock = Clock(objects.accelerator.device, start.seconds, start.joules)
    events = training_loop(objects, steps, budget, rung_steps, max_grad_norm, clock, start)
    loss: Tensor | None = None
    while (event := next_event(events, loss)) is not None:
        loss = _backward(objects, event, label_smoothing) if isinstance(event, Step) else None
        if isinstance(event, Progress):
            yield event


def next_event(events: TrainingEvents, loss: Tensor | None) -> Step | Progress | None:
    """Send the loss of the last step to a training loop; return what it yields next, or None at its end."""
    try:
        return events.send(loss)
    except StopIteration:
        return None


def training_loop(
    objects: TrainingObjects,
    steps: Iterable[Step],
    budget: Budget,
    rung_steps: Iterable[int],
    max_grad_norm: float,
    clock: Clock,
    start: Progress,
) -> TrainingEvents:
    """Run the training loop; the caller computes the gradients, for this trial alone or for several in one pass.

    | yields | when | is sent |
    |---|---|---|
    | `Step` | its gradients are needed | the step's loss, once the gradients are there |
    | `Progress` | at each rung | nothing (None) |

    The loss of a step is summed over its micro-batches and divided by all label tokens of the effective batch, so that
    16 x 1, 4 x 4 and two processes of 8 give the same gradients. The schedule advances with each step, or with the
    clock where the budget is in seconds. As in transformers' Trainer, a step that the loss scaler of fp16 skips does
    not advance the schedule, but counts as a step. The clock stops while the caller handles a rung.

    Args:
        objects: Model, optimizer, schedule and accelerator.
        steps: The batches of each optimizer step.
        budget: How long to train.
        rung_steps: The rungs that are left, as positions in the schedule.
        max_grad_norm: Gradient clipping.
        clock: Measures training; it continues from `start`.
        start: The progress at which training starts or resumes.

    Raises:
        DivergedError: If the loss or the gradient norm of a step is not finite.
    """
    model, optimizer, scheduler, accelerator = (
        objects.model,
        objects.optimizer,
        objects.scheduler,
        objects.accelerator,
    )
    examples, tokens, skipped = start.examples, start.label_tokens, start.skipped_steps
    first = (start.first_seconds, start.first_examples)
    losses, rungs = RunningLoss(accelerator.device), deque(rung_steps)
    model.train()
    clock.start()
    for number, step in enumerate(steps, start=start.step + 1):
        loss = yield step
        assert loss is not None
        norm = accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_grad_norm)
        # Under fp16 the loss scaler handles a non-finite norm: it skips the step and lowers the scale.
        losses.add(number, loss, loss if accelerator.scaler is not None else loss + norm, step.label_tokens)
        optimizer.step()
        optimizer.zero_grad()
        skipped += accelerator.optimizer_step_was_skipped
        examples, tokens = examples + step.examples, tokens + step.label_tokens
        position = _position(budget, number, clock, accelerator)
        lag = skipped if budget.train_seconds is None else 0
        while scheduler.last_epoch < min(position, rungs[-1]) - lag:
            scheduler.step()
        if number == FIRST_STEPS:
            first = (clock.elapsed(), examples)
        if position >= rungs[0]:
            clock.stop()
            mean = losses.mean()
            while rungs and position >= rungs[0]:
                rungs.popleft()
                yield Progress(
                    number, examples, tokens, mean, clock.seconds, clock.joules, *first, skipped_steps=skipped
                )
            if not rungs:
                return
            losses = RunningLoss(accelerator.device)
            model.train()
            clock.start()


class RunningLoss:
    """Mean loss since the last rung, summed on the device.

    Values are read only every CHECK_EVERY steps on a GPU, because reading one waits for all queued work.
    """

    def __init__(self, device: torch.device) -> None:
        self._check_every = CHECK_EVERY if device.type == "cuda" else 1
        self._sum, self._tokens = torch.zeros((), dtype=torch.float64, device=device), 0
        self._diverged_at = torch.full((), math.inf, device=device)  # the first step that was not finite

    def add(self, number: int, loss: Tensor, monitored: Tensor, tokens: int) -> None:
        """Add one step.

        Args:
            number: The step.
            loss: Its mean loss over label tokens.
            monitored: A value that must be finite.
            tokens: Its label tokens.

        Raises:
            DivergedError: At a step at which values are read, if `monitored` was not finite at it or before.
        """
        self._sum += loss.double() * tokens
        self._tokens += tokens
        self._diverged_at = torch.where(monitored.isfinite() | self._diverged_at.isfinite(), self._diverged_at, number)
        if number % self._check_every == 0:
            self._check()

    def mean(self) -> float:
        """Return the mean over label tokens.

        Raises:
            DivergedError: If a step was not finite.
        """
        self._check()
        return float(self._sum) / self._tokens

    def _check(self) -> None:
        step = float(self._diverged_at)
        if math.isfinite(step):
            raise DivergedError(int(step))


def _backward(objects: TrainingObjects, step: Step, label_smoothing: float) -> Tensor:
    """Compute the gradients of one step; return its loss, the mean over the label tokens of all processes."""
    model, accelerator = objects.model, objects.accelerator
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(step.micro_batches, start=1):
        # Processes exchange gradients once per step, with the last micro-batch.
        without_sync = accelerator.no_sync(model) if number < len(step.micro_batches) else nullcontext()
        with without_sync:
            part = token_loss(model, batch.to(accelerator.device), label_smoothing) / step.label_tokens
            # Data parallelism averages gradients over processes, but the loss is a sum.
            accelerator.backward(part * accelerator.num_processes)
        loss += part.detach()
    summed: Tensor = accelerator.reduce(loss, "sum")
    return summed


def _position(budget: Budget, step: int, clock: Clock, accelerator: Accelerator) -> int:
    """Return the position in the schedule; with a budget in seconds the first process's clock decides for all."""
    if budget.train_seconds is None:
        return budget.position(step, 0.0)
    position = torch.tensor(budget.position(step, clock.elapsed()), device=accelerator.device)
    return int(broadcast(position) if accelerator.num_processes > 1 else position)
