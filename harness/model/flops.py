"""How much arithmetic training a Whisper takes: model FLOPs, without what is computed again to save memory."""

from dataclasses import dataclass

from harness.model.parameters import POSITIONS_PER_SECOND, Dimensions, adapted, frozen_layers
from harness.spec.trial import TrialConfig


@dataclass(frozen=True)
class _Part:
    """Forward FLOPs of one part: matrices with fixed weights, and attention's products of activations."""

    linear: float
    attention: float = 0.0

    def backward(self, trained: bool) -> float:
        """Gradients of activations, and of the weights where they are trained; a product of two has both anyway."""
        return self.linear * (2 if trained else 1) + 2 * self.attention


def training_flops(
    dims: Dimensions, config: TrialConfig, examples: int, label_tokens: int, cached_layers: int = 0
) -> float:
    """FLOPs of forward and backward passes over `examples` windows with `label_tokens` decoder tokens in all.

    A multiplication and an addition count as two. Convolutions, projections, attention and the output layer are
    counted, element-wise work is not (as in Megatron-LM and PaLM's MFU). The backward pass goes down to the first
    trainable layer. DoRA's norms and recomputed activations are not counted, nor are the convolutions and the
    `cached_layers` of the encoder behind them whose results come from a cache.
    """
    if config.method == "none" or examples == 0:
        return 0.0
    tokens = label_tokens / examples
    window = config.encoder_window_seconds
    positions = dims.max_source_positions if window is None else round(window * POSITIONS_PER_SECOND)
    stem, encoder = _encoder(dims, positions)
    crossed, decoder, output = _decoder(dims, positions, tokens)
    adapters = {half: _adapter(dims, config, half, positions, tokens) for half in ("encoder", "decoder")}
    full = config.method == "full"
    trained = full or config.method == "frozen_encoder"
    first, last = _trained_layers(dims, config)
    forward = 0.0 if cached_layers else stem.linear
    forward += (dims.encoder_layers - cached_layers) * (encoder.linear + encoder.attention)
    forward += dims.decoder_layers * (crossed.linear + decoder.linear + decoder.attention) + output.linear
    backward = output.backward(trained)
    backward += (dims.encoder_layers - first) * encoder.backward(full) + (stem.linear if full else 0.0)
    reached = dims.decoder_layers if first < dims.encoder_layers else dims.decoder_layers - last
    backward += reached * decoder.backward(trained)
    # Keys and values of the encoder's output need its gradient only where something in the encoder is trained.
    flows = first < dims.encoder_layers
    backward += dims.decoder_layers * crossed.linear * (int(flows) + int(trained))
    return examples * (forward + backward + 3 * sum(adapters.values()))


def _encoder(dims: Dimensions, positions: int) -> tuple[_Part, _Part]:
    """(the convolutions, one layer)."""
    width, ffn = dims.d_model, dims.encoder_ffn_dim
    stem = 2 * 3 * dims.num_mel_bins * width * 2 * positions + 2 * 3 * width * width * positions
    linear = (8 * width * width + 4 * width * ffn) * positions
    return _Part(stem), _Part(linear, 4 * positions * positions * width)


def _decoder(dims: Dimensions, positions: int, tokens: float) -> tuple[_Part, _Part, _Part]:
    """(cross-attention's keys and values in one layer, the rest of the layer, the output projection)."""
    width, ffn = dims.d_model, dims.decoder_ffn_dim
    crossed = 4 * width * width * positions
    linear = (12 * width * width + 4 * width * ffn) * tokens
    attention = 4 * tokens * (tokens + positions) * width
    return _Part(crossed), _Part(linear, attention), _Part(2 * width * dims.vocab_size * tokens)


def _adapter(dims: Dimensions, config: TrialConfig, half: str, positions: int, tokens: float) -> float:
    """Forward FLOPs of the LoRA matrices in a half; those of cross-attention's keys and values see the encoder."""
    if config.method != "lora" or config.r is None:
        return 0.0
    flops = 0.0
    for place in adapted(dims, config):
        if place.half == half:
            seen = positions if half == "encoder" or place.crossed else tokens
            flops += 2 * config.r * (place.inputs + place.outputs) * seen
    return flops


def _trained_layers(dims: Dimensions, config: TrialConfig) -> tuple[int, int]:
    """The first encoder and decoder layer that something in them, or before, makes the backward pass go through."""
    if config.method in ("full", "frozen_encoder"):
        return frozen_layers(dims, config), 0
    lowest = 0 if config.bias == "all" else min(config.layers_to_transform or (0,))
    last = dims.decoder_layers if config.scope == "encoder" else min(lowest, dims.decoder_layers)
    return frozen_layers(dims, config), last
