"""Decide which trials can be packed: trained in one forward and backward pass on a shared base model."""

from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig

PackKey = tuple[str, float | None]


def unpackable_reason(config: TrialConfig, budget: Budget) -> str | None:
    """Return why a trial cannot be packed, or None.

    Only low-rank updates beside an unchanged base can be trained; all randomness must come from the trial's seed and
    the dropout of its LoRA matrices, because each packed trial has its own generators; and the budget must not depend
    on time.
    """
    reasons = {
        f"method {config.method} changes the base": config.method != "lora",
        "DoRA is not a sum": bool(config.use_dora),
        "biases are trained": (config.bias or "none") != "none",
        f"{config.init_lora_weights} changes the base": config.init_lora_weights in ("pissa", "olora"),
        f"the base is in {config.base_weights}": config.base_weights != "full",
        "the model itself has dropout": max(config.dropout, config.attention_dropout, config.activation_dropout) > 0,
        "SpecAugment masks all rows in the same way": max(config.mask_time_prob, config.mask_feature_prob) > 0,
        "gradient checkpointing computes twice": config.gradient_checkpointing,
        "fp16 scales the loss of all trials by one factor": config.precision == "fp16",
        "a budget in seconds depends on the other packed trials": budget.train_seconds is not None,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def pack_key(config: TrialConfig, budget: Budget) -> PackKey | None:
    """Return what trials must have in common to be packed together; None for a trial that cannot be packed.

    Batch sizes may differ, but only micro-batches of the same size share a pass.
    """
    return None if unpackable_reason(config, budget) else (config.precision, config.encoder_window_seconds)
