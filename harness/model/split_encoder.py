"""The encoder in two parts: its first layers, and the rest, which is entered with what the first ones made."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from harness.model.methods import whisper_of


def run_first_layers(encoder: WhisperEncoder, features: Tensor, depth: int) -> Tensor:
    """What the first `depth` layers make of log-mel features (clips, mel bins, frames): (clips, positions, width).

    At the full depth it is the encoder's output, behind its last layer norm.
    """
    layers, norm = encoder.layers, encoder.layer_norm
    if depth < len(layers):
        encoder.layers = layers[:depth]
        encoder.layer_norm = nn.Identity()  # type: ignore[assignment]
    try:
        states: Tensor = encoder(features).last_hidden_state
    finally:
        encoder.layers, encoder.layer_norm = layers, norm
    return states


@contextmanager
def start_at_layer(model: nn.Module, depth: int | None) -> Iterator[None]:
    """Within it the encoder takes what `leading` made instead of features; with None it is as ever."""
    if depth is None:
        yield
        return
    encoder = whisper_of(extract_model_from_parallel(model, keep_fp32_wrapper=True)).model.encoder
    encoder.forward = partial(_from, encoder, depth)  # an attribute of the module, before its class's method
    try:
        yield
    finally:
        del encoder.forward


def _from(encoder: WhisperEncoder, depth: int, input_features: Tensor, **_: object) -> BaseModelOutput:
    states = input_features
    if depth < len(encoder.layers):
        for layer in encoder.layers[depth:]:
            states = layer(states, None)
        states = encoder.layer_norm(states)
    return BaseModelOutput(last_hidden_state=states)
