"""Create the optimizer and learning-rate schedule of a configuration, under transformers' names."""

from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    Adafactor,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from harness.spec.trial import TrialConfig

MIN_8BIT_SIZE = 4096  # elements; bitsandbytes keeps the state of smaller tensors in 32 bit


def make_optimizer(model: nn.Module, config: TrialConfig, fused: bool = True) -> torch.optim.Optimizer:
    """Create the optimizer of the trainable parameters; `fused` selects torch's fused AdamW."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optim == "adafactor":
        # With a given learning rate Adafactor's own is off, as in transformers' Trainer.
        return Adafactor(trainable, **shared, scale_parameter=False, relative_step=False)
    shared |= {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    if config.optim == "adamw":
        return torch.optim.AdamW(trainable, **shared, fused=fused)
    classes = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}
    optimizer: torch.optim.Optimizer = classes[config.optim](trainable, **shared, min_8bit_size=MIN_8BIT_SIZE)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrialConfig, steps: int) -> LRScheduler:
    """Create the schedule: linear warm-up, then the configuration's decay over all `steps`."""
    warmup = config.warmup(steps)
    if config.lr_scheduler_type == "constant_with_warmup":
        constant: LRScheduler = get_constant_schedule_with_warmup(optimizer, warmup)
        return constant
    cosine = config.lr_scheduler_type == "cosine"
    decay = get_cosine_schedule_with_warmup if cosine else get_linear_schedule_with_warmup
    scheduler: LRScheduler = decay(optimizer, warmup, steps)
    return scheduler


def eight_bit_share(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the share of optimizer state values stored in 8 bit; None before the first step."""
    sizes = {True: 0, False: 0}
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.numel() >= MIN_8BIT_SIZE:
                sizes[value.dtype == torch.uint8] += value.numel()
    total = sum(sizes.values())
    return sizes[True] / total if total else None
