"""Compute the model FLOPs of training a Whisper model, not counting recomputation for gradient checkpointing."""

from dataclasses import dataclass

from harness.model_size.parameters import POSITIONS_PER_SECOND, Dimensions, adapted_projections, frozen_layers
from harness.spec.trial import TrialConfig


@dataclass(frozen=True)
class _Part:
    """Forward FLOPs of one part of the model: products with weights, and attention's products of activations."""

    linear: float
    attention: float = 0.0

    def backward(self, trained: bool) -> float:
        """Return the backward FLOPs: gradients of activations, and of weights if they are trained.

        Attention's products of two activations always need both gradients.
        """
        return self.linear * (2 if trained else 1) + 2 * self.attention


def training_flops(
    dims: Dimensions, config: TrialConfig, examples: int, label_tokens: int, cached_layers: int = 0
) -> float:
    """Return the FLOPs of the forward and backward passes over `examples` windows.

    A multiplication and an addition count as two operations. Convolutions, projections, attention and the output layer
    are counted; element-wise operations are not (as in Megatron-LM and PaLM's MFU). The backward pass ends at the first
    trainable layer. Not counted: DoRA's norms, recomputed activations, and encoder layers read from the cache.

    Args:
        dims: Dimensions of the model.
        config: The configuration.
        examples: Training examples.
        label_tokens: Decoder tokens of all examples together.
        cached_layers: Encoder layers whose output is read from the encoder-state cache (with the convolutions).
    """
    if config.method == "none" or examples == 0:
        return 0.0
    tokens = label_tokens / examples
    window = config.encoder_window_seconds
    positions = dims.max_source_positions if window is None else round(window * POSITIONS_PER_SECOND)
    stem, encoder = _encoder(dims, positions)
    cross_kv, decoder, output = _decoder(dims, positions, tokens)
    adapters = {half: _adapter(dims, config, half, positions, tokens) for half in ("encoder", "decoder")}
    full = config.method == "full"
    decoder_trained = full or config.method == "frozen_encoder"
    first_encoder, first_decoder = _trained_layers(dims, config)
    forward = 0.0 if cached_layers else stem.linear
    forward += (dims.encoder_layers - cached_layers) * (encoder.linear + encoder.attention)
    forward += dims.decoder_layers * (cross_kv.linear + decoder.linear + decoder.attention) + output.linear
    backward = output.backward(decoder_trained)
    backward += (dims.encoder_layers - first_encoder) * encoder.backward(full) + (stem.linear if full else 0.0)
    into_encoder = first_encoder < dims.encoder_layers
    reached = dims.decoder_layers if into_encoder else dims.decoder_layers - first_decoder
    backward += reached * decoder.backward(decoder_trained)
    # The gradient with respect to the encoder's output is needed only if something in the encoder is trained.
    backward += dims.decoder_layers * cross_kv.linear * (int(into_encoder) + int(decoder_trained))
    return examples * (forward + backward + 3 * sum(adapters.values()))


def _encoder(dims: Dimensions, positions: int) -> tuple[_Part, _Part]:
    """Return (convolutions, one layer)."""
    width, ffn = dims.d_model, dims.encoder_ffn_dim
    stem = 2 * 3 * dims.num_mel_bins * width * 2 * positions + 2 * 3 * width * width * positions
    linear = (8 * width * width + 4 * width * ffn) * positions
    return _Part(stem), _Part(linear, 4 * positions * positions * width)


def _decoder(dims: Dimensions, positions: int, tokens: float) -> tuple[_Part, _Part, _Part]:
    """Return (cross-attention's keys and values of one layer, the rest of the layer, the output projection)."""
    width, ffn = dims.d_model, dims.decoder_ffn_dim
    cross_kv = 4 * width * width * positions
    linear = (12 * width * width + 4 * width * ffn) * tokens
    attention = 4 * tokens * (tokens + positions) * width
    return _Part(cross_kv), _Part(linear, attention), _Part(2 * width * dims.vocab_size * tokens)


def _adapter(dims: Dimensions, config: TrialConfig, half: str, positions: int, tokens: float) -> float:
    """Return the forward FLOPs of the LoRA matrices in one half of the model, for one example."""
    if config.method != "lora" or config.r is None:
        return 0.0
    flops = 0.0
    for projection in adapted_projections(dims, config):
        if projection.half == half:
            length = positions if half == "encoder" or projection.reads_encoder else tokens
            flops += 2 * config.r * (projection.inputs + projection.outputs) * length
    return flops


def _trained_layers(dims: Dimensions, config: TrialConfig) -> tuple[int, int]:
    """Return the first encoder layer and the first decoder layer that the backward pass goes through."""
    if config.method in ("full", "frozen_encoder"):
        return frozen_layers(dims, config), 0
    lowest = 0 if config.bias == "all" else min(config.layers_to_transform or (0,))
    first_decoder = dims.decoder_layers if config.scope == "encoder" else min(lowest, dims.decoder_layers)
    return frozen_layers(dims, config), first_decoder
