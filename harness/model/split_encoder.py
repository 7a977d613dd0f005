"""Run the encoder in two parts: its first layers, and the rest from their output."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from harness.model.methods import whisper_of


def run_first_layers(encoder: WhisperEncoder, features: Tensor, depth: int) -> Tensor:
    """Return the states after the first `depth` layers: (clips, positions, width).

    At full depth this is the encoder's output, after its final layer norm.

    Args:
        encoder: The encoder.
        features: Log-mel features (clips, mel bins, frames).
        depth: The number of layers to run.
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
    """Within the context, the model's encoder takes states from `run_first_layers` instead of features.

    With `depth` None the encoder is unchanged.
    """
    if depth is None:
        yield
        return
    encoder = whisper_of(extract_model_from_parallel(model, keep_fp32_wrapper=True)).model.encoder
    encoder.forward = partial(_forward_from, encoder, depth)  # hides the method of the class
    try:
        yield
    finally:
        del encoder.forward


def _forward_from(encoder: WhisperEncoder, depth: int, input_features: Tensor, **_: object) -> BaseModelOutput:
    states = input_features
    if depth < len(encoder.layers):
        for layer in encoder.layers[depth:]:
            states = layer(states, None)
        states = encoder.layer_norm(states)
    return BaseModelOutput(last_hidden_state=states)
