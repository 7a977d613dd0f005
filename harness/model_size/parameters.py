"""Count total and trainable parameters of a configuration by formula, without weights, network or torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import model_location
from harness.errors import UserError, nearest
from harness.spec.trial import TrialConfig

POSITIONS_PER_SECOND = 50  # of Whisper's encoder: one position for two mel frames of 10 ms


@dataclass(frozen=True)
class Dimensions:
    """Dimensions of a Whisper model, under the names of its config.json."""

    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    vocab_size: int
    num_mel_bins: int = 80
    max_source_positions: int = 1500
    max_target_positions: int = 448


def dimensions_of(config: object) -> Dimensions:
    """Return the dimensions in a WhisperConfig."""
    return Dimensions(**{name: int(getattr(config, name)) for name in Dimensions.__dataclass_fields__})


def _official(
    d_model: int, encoder_layers: int, decoder_layers: int, vocab_size: int = 51865, mels: int = 80
) -> Dimensions:
    return Dimensions(d_model, encoder_layers, decoder_layers, 4 * d_model, 4 * d_model, vocab_size, mels)


# Published by OpenAI in the checkpoints (ModelDimensions of whisper/model.py).
OFFICIAL = {
    "openai/whisper-tiny": _official(384, 4, 4),
    "openai/whisper-base": _official(512, 6, 6),
    "openai/whisper-small": _official(768, 12, 12),
    "openai/whisper-medium": _official(1024, 24, 24),
    "openai/whisper-large": _official(1280, 32, 32),
    "openai/whisper-large-v2": _official(1280, 32, 32),
    "openai/whisper-large-v3": _official(1280, 32, 32, 51866, 128),
    "openai/whisper-large-v3-turbo": _official(1280, 32, 4, 51866, 128),
    "openai/whisper-tiny.en": _official(384, 4, 4, 51864),
    "openai/whisper-base.en": _official(512, 6, 6, 51864),
    "openai/whisper-small.en": _official(768, 12, 12, 51864),
    "openai/whisper-medium.en": _official(1024, 24, 24, 51864),
}


def dimensions(model: str) -> Dimensions:
    """Return a model's dimensions: OpenAI's models by name, others from the config.json in their folder.

    Raises:
        UserError: If the model is neither, or the config.json is not a Whisper model's.
    """
    if model in OFFICIAL:
        return OFFICIAL[model]
    path = Path(model_location(model)) / "config.json"
    if not path.is_file():
        raise UserError(
            f"unknown dimensions of model {model!r}: expected an official Whisper or a folder with a config.json; "
            f"{nearest(model, [*OFFICIAL, 'demo'])}"
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    try:
        return Dimensions(**{name: int(config[name]) for name in Dimensions.__dataclass_fields__})
    except KeyError as error:
        raise UserError(f"{path} is not the configuration of a Whisper model: it has no {error}") from None


def _layer(width: int, ffn: int, attentions: int) -> int:
    """Count a transformer layer: attentions (k_proj has no bias), two feed-forward matrices, and layer norms."""
    attention = 4 * width * width + 3 * width
    return attentions * (attention + 2 * width) + 2 * width * ffn + ffn + width + 2 * width


def _decoder(dims: Dimensions) -> int:
    width = dims.d_model
    layers = dims.decoder_layers * _layer(width, dims.decoder_ffn_dim, 2) + 2 * width
    # The output projection is tied to the embeddings.
    return layers + dims.vocab_size * width + dims.max_target_positions * width


def base_parameters(dims: Dimensions) -> tuple[int, int]:
    """Return (total parameters, parameters trained by full fine-tuning); sinusoidal positions are not trained."""
    width = dims.d_model
    convolutions = 3 * dims.num_mel_bins * width + width + 3 * width * width + width
    encoder = dims.encoder_layers * _layer(width, dims.encoder_ffn_dim, 1) + 2 * width
    trainable = convolutions + encoder + _decoder(dims)
    return trainable + dims.max_source_positions * width, trainable


@dataclass(frozen=True)
class AdaptedProjection:
    """A linear layer that gets an adapter.

    Attributes:
        half: "encoder" or "decoder".
        inputs: Input features.
        outputs: Output features.
        has_bias: Whether it has a bias.
        reads_encoder: Whether it is a decoder layer's projection of the encoder's output (cross-attention's keys and
            values).
    """

    half: str
    inputs: int
    outputs: int
    has_bias: bool
    reads_encoder: bool = False


def adapted_projections(dims: Dimensions, config: TrialConfig) -> Iterator[AdaptedProjection]:
    """Yield each linear layer that gets an adapter."""
    width = dims.d_model
    halves = {
        "encoder": (dims.encoder_layers, dims.encoder_ffn_dim),
        "decoder": (dims.decoder_layers, dims.decoder_ffn_dim),
    }
    for half, (layers, ffn) in halves.items():
        if config.scope in (half, "both", None):
            selected = config.layers_to_transform or range(layers)
            for module in (config.target_modules or ()) * sum(layer < layers for layer in selected):
                if module == "fc1":
                    yield AdaptedProjection(half, width, ffn, True)
                elif module == "fc2":
                    yield AdaptedProjection(half, ffn, width, True)
                else:
                    yield AdaptedProjection(half, width, width, module != "k_proj")
                    if half == "decoder":
                        yield AdaptedProjection(half, width, width, module != "k_proj", module in ("k_proj", "v_proj"))


def frozen_layers(dims: Dimensions, config: TrialConfig) -> int:
    """Return how many encoder layers precede the first trained parameter; all if only the decoder is trained."""
    if config.method in ("none", "frozen_encoder"):
        return dims.encoder_layers
    if config.method == "full" or config.bias == "all":
        return 0
    if config.scope == "decoder":
        return dims.encoder_layers
    return min(min(config.layers_to_transform or (0,)), dims.encoder_layers)


def _all_biases(dims: Dimensions) -> int:
    """Count all biases: of convolutions, projections (k_proj has none), feed-forward layers and layer norms."""
    width = dims.d_model
    encoder = dims.encoder_layers * ((3 + 1) * width + dims.encoder_ffn_dim + width + width)
    decoder = dims.decoder_layers * (2 * (3 + 1) * width + dims.decoder_ffn_dim + width + width)
    return 2 * width + encoder + decoder + 2 * width


def count(dims: Dimensions, config: TrialConfig) -> tuple[int, int]:
    """Return (trainable parameters, total parameters with the adapter), as PEFT counts them.

    LoRA adds r * (inputs + outputs) to each adapted projection (Hu et al. 2021), DoRA one magnitude for each output
    (Liu et al. 2024).
    """
    total, full = base_parameters(dims)
    if config.method == "full":
        return full, total
    if config.method == "frozen_encoder":
        return _decoder(dims), total
    if config.method == "none" or config.r is None:
        return 0, total
    projections = list(adapted_projections(dims, config))
    added = sum(config.r * (projection.inputs + projection.outputs) for projection in projections)
    if config.use_dora:
        added += sum(projection.outputs for projection in projections)
    trainable = added
    if config.bias == "lora_only":
        trainable += sum(projection.outputs for projection in projections if projection.has_bias)
    elif config.bias == "all":
        trainable += _all_biases(dims)
    return trainable, total + added
