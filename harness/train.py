"""The training loop: one for all methods, a generator that stands still at each rung."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.data.batches import IGNORED, Batch
from harness.meter import Clock

FIRST_STEPS = 2  # timed apart


class DivergedError(Exception):
    """The loss or the gradients are no longer finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")


@dataclass(frozen=True)
class Progress:
    """Where training stands when it yields: `loss` is the mean over label tokens since the yield before."""

    step: int
    examples: int
    loss: float
    seconds: float
    first_seconds: float  # of the first steps, which warm up kernels and caches
    first_examples: int


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    accelerator: Accelerator,
    batches: Iterable[Sequence[Batch]],
    rung_steps: Sequence[int],
    max_grad_norm: float,
    label_smoothing: float = 0.0,
) -> Iterator[Progress]:
    """Train over `batches`, one optimizer step for each list of micro-batches, and yield after each of `rung_steps`.

    The loss of a step is summed over its micro-batches and divided by all their label tokens, so that 16 x 1 and
    4 x 4 give the same gradients. The clock runs only while training does: what the caller does at a rung is not
    counted. To stop early, stop iterating.

    Raises:
        DivergedError: at the first step whose loss or gradient norm is not finite.
    """
    clock, examples = Clock(accelerator.device), 0
    loss_sum, token_sum = 0.0, 0
    first = (0.0, 0)
    model.train()
    clock.start()
    for step, micro_batches in enumerate(batches, start=1):
        tokens = sum(batch.label_tokens for batch in micro_batches)
        loss = torch.zeros((), device=accelerator.device)
        for batch in micro_batches:
            part = token_loss(model, batch.to(accelerator.device), label_smoothing) / tokens
            accelerator.backward(part)
            loss += part.detach()
            examples += len(batch.labels)
        norm = accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_grad_norm)
        # Under fp16 a non-finite norm is the loss scaler's business: it skips the step and lowers the scale.
        watched = loss if accelerator.scaler is not None else loss + norm
        if not math.isfinite(float(watched)):
            raise DivergedError(step)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        loss_sum, token_sum = loss_sum + float(loss) * tokens, token_sum + tokens
        if step == FIRST_STEPS:
            clock.stop()
            clock.start()
            first = (clock.seconds, examples)
        if step in rung_steps:
            clock.stop()
            yield Progress(step, examples, loss_sum / token_sum, clock.seconds, *first)
            loss_sum, token_sum = 0.0, 0
            model.train()
            clock.start()


def token_loss(model: nn.Module, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over the label tokens of a batch."""
    logits = model(
        input_features=batch.input_features, decoder_input_ids=batch.decoder_input_ids, use_cache=False
    ).logits
    return cross_entropy(
        logits.float().flatten(0, 1),
        batch.labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
