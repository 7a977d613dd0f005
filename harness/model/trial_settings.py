"""Apply a trial's settings to the base model: dropout, SpecAugment, encoder window, gradient checkpointing."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from harness.model.base import Base
from harness.model_size.parameters import POSITIONS_PER_SECOND
from harness.spec.trial import TrialConfig

CONFIG_FIELDS = (
    "mask_time_prob",
    "mask_time_length",
    "mask_feature_prob",
    "mask_feature_length",
)


@contextmanager
def apply_trial_settings(base: Base, config: TrialConfig) -> Iterator[None]:
    """Within the context, the base has a trial's dropout, SpecAugment, encoder window and checkpointing."""
    model, before = base.model, dict(base.model.config.to_dict())
    positions = model.model.encoder.embed_positions
    _set_dropout(model, config.dropout, config.attention_dropout, config.activation_dropout)
    for name in CONFIG_FIELDS:
        setattr(model.config, name, getattr(config, name))
    model.config.apply_spec_augment = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    if config.encoder_window_seconds is not None:
        _cut_window(base, round(config.encoder_window_seconds * POSITIONS_PER_SECOND))
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        if config.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.model.encoder.embed_positions = positions
        for name in (*CONFIG_FIELDS, "apply_spec_augment", "max_source_positions"):
            setattr(model.config, name, before[name])
        _set_dropout(model, before["dropout"], before["attention_dropout"], before["activation_dropout"])


def _set_dropout(model: nn.Module, hidden: float, attention: float, activation: float) -> None:
    for module in model.modules():
        name, rates = type(module).__name__, dict[str, float]()
        if name == "WhisperAttention":
            rates = {"dropout": attention}
        elif name in ("WhisperEncoder", "WhisperDecoder"):
            rates = {"dropout": hidden}
        elif name in ("WhisperEncoderLayer", "WhisperDecoderLayer"):
            rates = {"dropout": hidden, "activation_dropout": activation}
        for attribute, rate in rates.items():
            setattr(module, attribute, rate)


def _cut_window(base: Base, positions: int) -> None:
    """Shorten the encoder's window to its first positions; the sinusoids stay the same."""
    encoder = base.model.model.encoder
    weight = encoder.embed_positions.weight
    if positions > len(weight):
        raise ValueError(f"encoder_window_seconds is longer than the model's {len(weight) / POSITIONS_PER_SECOND:g} s")
    cut = nn.Embedding(positions, weight.shape[1], _weight=weight[:positions].detach().clone())
    encoder.embed_positions = cut.to(weight.device).requires_grad_(False)
    base.model.config.max_source_positions = positions


def window_frames(base: Base) -> int:
    """Return the number of mel frames that the encoder takes with its present window."""
    return 2 * int(base.model.config.max_source_positions)
