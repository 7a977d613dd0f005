"""Layers as compiled code: one piece for all layers of a kind, which trials of the same shapes share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.model.base import Base
from harness.model.methods import whisper_of
from harness.spec.trial import TrialConfig

PIECES = 64  # of code that a kind of layer may have: a new rank, dropout or way to train is a new piece


def compiles(base: Base, config: TrialConfig) -> bool:
    """Whether a configuration's layers can be compiled: not quantised ones, nor ones that are computed twice."""
    return base.weights == "full" and not config.gradient_checkpointing


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Within it each layer of encoder and decoder runs as compiled code, but for what `as_written` encloses.

    Dropout then draws other masks; without dropout losses agree to rounding.
    """
    before = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = PIECES
    for layer in _layers(model):
        layer.compile()
    try:
        yield
    finally:
        torch._dynamo.config.recompile_limit = before
        for layer in _layers(model):
            layer._compiled_call_impl = None  # as it was: Module.compile has no way back


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Within it layers run as they are written: in evaluation, where adapters are merged and no gradient is wanted."""
    before = [layer._compiled_call_impl for layer in _layers(model)]
    for layer in _layers(model):
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, code in zip(_layers(model), before, strict=True):
            layer._compiled_call_impl = code


def _layers(model: nn.Module) -> list[nn.Module]:
    whisper = whisper_of(model).model
    return [*whisper.encoder.layers, *whisper.decoder.layers]
