"""Create the optimizer and learning-rate schedule of a configuration, under transformers' names."""

from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
from bitsandbytes.optim.optimizer import GlobalOptimManager
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    Adafactor,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from transformers.trainer_pt_utils import get_parameter_names

from harness.spec.trial import TrialConfig

MIN_8BIT_SIZE = 4096  # elements; bitsandbytes keeps the state of smaller tensors in 32 bit
# Parameters without weight decay, as in Trainer.get_decay_parameter_names; importing Trainer takes seconds.
WITHOUT_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def make_optimizer(model: nn.Module, config: TrialConfig, fused: bool = True) -> torch.optim.Optimizer:
    """Create the optimizer of the trainable parameters, as transformers' Trainer does.

    Weight decay does not act on biases and layer norms. The 8-bit optimizers keep the states of embeddings in 32 bit.

    Args:
        model: The model, after `harness.model.methods.attach`.
        config: The configuration.
        fused: Use torch's fused AdamW.
    """
    groups = parameter_groups(model, config.weight_decay)
    shared: dict[str, Any] = {"lr": config.learning_rate}
    if config.optim == "adafactor":
        # With a given learning rate Adafactor's own is off, as in transformers' Trainer.
        return Adafactor(groups, **shared, scale_parameter=False, relative_step=False)
    shared |= {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    if config.optim == "adamw":
        return torch.optim.AdamW(groups, **shared, fused=fused)
    classes = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}
    optimizer: torch.optim.Optimizer = classes[config.optim](groups, **shared, min_8bit_size=MIN_8BIT_SIZE)
    _keep_embeddings_in_32_bit(model)
    return optimizer


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with weight decay and, if there are any, without."""
    decayed = set(get_parameter_names(model, [nn.LayerNorm], WITHOUT_DECAY))
    split: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            split[name in decayed].append(parameter)
    rates = {True: weight_decay, False: 0.0}
    return [{"params": split[kind], "weight_decay": rates[kind]} for kind in split if split[kind]]


def _keep_embeddings_in_32_bit(model: nn.Module) -> None:
    """Register the exception with bitsandbytes, after dropping those of earlier trials.

    bitsandbytes applies exceptions by position in the optimizer too, so an earlier trial's would hit other parameters.
    """
    manager = GlobalOptimManager.get_instance()
    manager.initialize()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            manager.register_module_override(module, "weight", {"optim_bits": 32})


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
