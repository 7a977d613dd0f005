"""The training loop: one for all methods, a generator that stands still at each rung."""

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
from harness.hardware.meter import Clock
from harness.model.loss import token_loss
from harness.spec.budget import Budget

FIRST_STEPS = 2  # timed apart
STEPS_UNASKED = 10  # on a GPU, before it is asked whether the loss is finite


class DivergedError(Exception):
    """The loss or the gradients are no longer finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")


@dataclass(frozen=True)
class Progress:
    """Where training stands when it yields: `loss` is the mean over label tokens since the yield before."""

    step: int = 0
    examples: int = 0
    label_tokens: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    joules: float | None = None
    first_seconds: float = 0.0  # of the first steps, which warm up kernels and caches
    first_examples: int = 0
    together: int = 1  # the most trials that trained in one pass with this one, itself among them


TrainingEvents = Generator[Step | Progress, Tensor | None, None]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    accelerator: Accelerator,
    steps: Iterable[Step],
    budget: Budget,
    rung_steps: Iterable[int],
    max_grad_norm: float,
    label_smoothing: float = 0.0,
    since: Progress | None = None,
) -> Iterator[Progress]:
    """Take optimizer steps and yield at each rung; `since` is where an interrupted training goes on.

    To stop early, stop iterating.

    Raises:
        DivergedError: at the first step whose loss or gradient norm is not finite.
    """
    since = since or Progress()
    clock = Clock(accelerator.device, since.seconds, since.joules)
    under_way = training_loop(
        model, optimizer, scheduler, accelerator, steps, budget, rung_steps, max_grad_norm, clock, since
    )
    loss: Tensor | None = None
    while (said := next_event(under_way, loss)) is not None:
        loss = _backward(model, said, accelerator, label_smoothing) if isinstance(said, Step) else None
        if isinstance(said, Progress):
            yield said


def next_event(under_way: TrainingEvents, loss: Tensor | None) -> Step | Progress | None:
    """What a course says next; None at its end."""
    try:
        return under_way.send(loss)
    except StopIteration:
        return None


def training_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    accelerator: Accelerator,
    steps: Iterable[Step],
    budget: Budget,
    rung_steps: Iterable[int],
    max_grad_norm: float,
    clock: Clock,
    since: Progress,
) -> TrainingEvents:
    """The loop itself, which leaves to others how gradients are computed: alone, or with those of other trials.

    It yields each Step of which it wants the gradients, and is sent its loss when they are there; at each rung it
    yields Progress. The loss of a step is summed over its micro-batches and divided by all label tokens of the
    effective batch, so that 16 x 1, 4 x 4 and two processes of 8 give the same gradients. The schedule follows the
    budget: it advances with each step, or with the clock where the budget is in seconds. The clock runs only while
    training does: what the caller does at a rung is not counted.
    """
    examples, tokens = since.examples, since.label_tokens
    first = (since.first_seconds, since.first_examples)
    losses, marks = Losses(accelerator.device), deque(rung_steps)
    model.train()
    clock.start()
    for number, step in enumerate(steps, start=since.step + 1):
        loss = yield step
        assert loss is not None
        norm = accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_grad_norm)
        # Under fp16 a non-finite norm is the loss scaler's business: it skips the step and lowers the scale.
        losses.add(number, loss, loss if accelerator.scaler is not None else loss + norm, step.label_tokens)
        optimizer.step()
        optimizer.zero_grad()
        examples, tokens = examples + step.examples, tokens + step.label_tokens
        position = _position(budget, number, clock, accelerator)
        while scheduler.last_epoch < min(position, marks[-1]):
            scheduler.step()
        if number == FIRST_STEPS:
            first = (clock.elapsed(), examples)
        if position >= marks[0]:
            clock.stop()
            mean = losses.mean()
            while marks and position >= marks[0]:
                marks.popleft()
                yield Progress(number, examples, tokens, mean, clock.seconds, clock.joules, *first)
            if not marks:
                return
            losses = Losses(accelerator.device)
            model.train()
            clock.start()


class Losses:
    """Losses since a rung, summed on the device, which is asked for numbers only now and then: a GPU must catch up."""

    def __init__(self, device: torch.device) -> None:
        self._every = STEPS_UNASKED if device.type == "cuda" else 1
        self._sum, self._tokens = torch.zeros((), dtype=torch.float64, device=device), 0
        self._lost = torch.full((), math.inf, device=device)  # the first step that was not finite

    def add(self, number: int, loss: Tensor, watched: Tensor, tokens: int) -> None:
        """Count in a step's mean loss over its label tokens.

        Raises:
            DivergedError: once it is asked, and what was watched has not been finite.
        """
        self._sum += loss.double() * tokens
        self._tokens += tokens
        self._lost = torch.where(watched.isfinite() | self._lost.isfinite(), self._lost, number)
        if number % self._every == 0:
            self._check()

    def mean(self) -> float:
        """The mean over label tokens.

        Raises:
            DivergedError: where a step was not finite.
        """
        self._check()
        return float(self._sum) / self._tokens

    def _check(self) -> None:
        lost = float(self._lost)
        if math.isfinite(lost):
            raise DivergedError(int(lost))


def _backward(model: nn.Module, step: Step, accelerator: Accelerator, label_smoothing: float) -> Tensor:
    """Gradients of one step; returns its loss, the mean over the label tokens of all processes."""
    loss = torch.zeros((), device=accelerator.device)
    for place, batch in enumerate(step.micro_batches, start=1):
        # Processes exchange gradients once a step, with the last micro-batch.
        waiting = accelerator.no_sync(model) if place < len(step.micro_batches) else nullcontext()
        with waiting:
            part = token_loss(model, batch.to(accelerator.device), label_smoothing) / step.label_tokens
            # Data parallelism averages gradients over processes; the loss is a sum.
            accelerator.backward(part * accelerator.num_processes)
        loss += part.detach()
    summed: Tensor = accelerator.reduce(loss, "sum")
    return summed


def _position(budget: Budget, step: int, clock: Clock, accelerator: Accelerator) -> int:
    """How far on the schedule; where the clock decides, the first process's clock decides for all."""
    if budget.train_seconds is None:
        return budget.position(step, 0.0)
    position = torch.tensor(budget.position(step, clock.elapsed()), device=accelerator.device)
    return int(broadcast(position) if accelerator.num_processes > 1 else position)
