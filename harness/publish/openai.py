"""Convert a Whisper of Transformers to a checkpoint that the package openai-whisper loads."""

import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

# Names of parts of a layer in Transformers -> in openai-whisper (whisper/model.py)
PART_NAMES = {
    "layers": "blocks",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "embed_tokens": "token_embedding",
}
# Names outside the layers
MODULE_NAMES = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
}


def dimensions(model: WhisperForConditionalGeneration) -> dict[str, int]:
    """Return the model's dimensions under openai-whisper's names."""
    config = model.config
    return {
        "n_mels": config.num_mel_bins,
        "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers,
        "n_vocab": config.vocab_size,
        "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model,
        "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers,
    }


def openai_name(name: str) -> str:
    """Return a parameter's name in openai-whisper: model.encoder.layers.0.fc1.bias -> encoder.blocks.0.mlp.0.bias."""
    name = name.removeprefix("model.")
    for module, openai_module in MODULE_NAMES.items():
        if name == module or name.startswith(f"{module}."):
            return openai_module + name.removeprefix(module)
    return ".".join(PART_NAMES.get(part, part) for part in name.split("."))


def write_openai(model: WhisperForConditionalGeneration, path: Path) -> None:
    """Write a checkpoint, with the keys `dims` and `model_state_dict`, for whisper.load_model(path).

    This is the only file that is not safetensors, because the package reads nothing else. Only the package itself reads
    it back, and it loads weights only.
    """
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in model.state_dict().items():
        if name != "proj_out.weight":  # tied to the token embedding, which openai-whisper uses instead
            state[openai_name(name)] = value.detach().cpu().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"dims": dimensions(model), "model_state_dict": state}, partial)
    os.replace(partial, path)
