"""Which trials may train together in one forward pass over the base that they share."""

from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig

Kind = tuple[str, float | None]


def apart(config: TrialConfig, budget: Budget) -> str | None:
    """Why a trial trains alone, or None.

    What is trained must be low-rank products on the side of a base that nobody changes; chance must come from the
    seeds of a trial and the dropout of its matrices alone, for each trial has its own dice; and time must not decide.
    """
    reasons = {
        f"method {config.method} changes the base": config.method != "lora",
        "DoRA is no sum": bool(config.use_dora),
        "biases are trained": (config.bias or "none") != "none",
        f"{config.init_lora_weights} changes the base": config.init_lora_weights in ("pissa", "olora"),
        f"the base is in {config.base_weights}": config.base_weights != "full",
        "the model itself has dropout": max(config.dropout, config.attention_dropout, config.activation_dropout) > 0,
        "SpecAugment masks all rows alike": max(config.mask_time_prob, config.mask_feature_prob) > 0,
        "gradient checkpointing computes twice": config.gradient_checkpointing,
        "fp16 scales the loss, for all trials alike": config.precision == "fp16",
        "a budget in seconds depends on the trials beside": budget.train_seconds is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def kind(config: TrialConfig, budget: Budget) -> Kind | None:
    """What trials that train together have in common; None for one that trains alone.

    Batch sizes may differ, but only micro-batches of one size share a pass.
    """
    return None if apart(config, budget) else (config.precision, config.encoder_window_seconds)
