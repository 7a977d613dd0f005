"""Run encoder and decoder layers as compiled code, shared by all layers of a type and all trials of equal shapes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.model.base import Base
from harness.model.methods import whisper_of
from harness.spec.trial import TrialConfig

RECOMPILE_LIMIT = 64  # per layer type: each new rank, dropout or training method compiles once more


def can_compile(base: Base, config: TrialConfig) -> bool:
    """Return whether the layers can be compiled: not with a quantized base, and not with gradient checkpointing."""
    return base.weights == "full" and not config.gradient_checkpointing


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Within the context, run each encoder and decoder layer as compiled code, except inside `uncompiled`.

    Compiled dropout draws other masks; without dropout, losses agree up to rounding.
    """
    before = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    for layer in _layers(model):
        layer.compile()
    try:
        yield
    finally:
        torch._dynamo.config.recompile_limit = before
        for layer in _layers(model):
            layer._compiled_call_impl = None  # undoes Module.compile, which has no public inverse


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Within the context, run layers uncompiled: for evaluation, with merged adapters and without gradients."""
    before = [layer._compiled_call_impl for layer in _layers(model)]
    for layer in _layers(model):
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, implementation in zip(_layers(model), before, strict=True):
            layer._compiled_call_impl = implementation


def _layers(model: nn.Module) -> list[nn.Module]:
    whisper = whisper_of(model).model
    return [*whisper.encoder.layers, *whisper.decoder.layers]
