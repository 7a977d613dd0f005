"""A Whisper of transformers as the checkpoint that the package openai-whisper loads."""

import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

# transformers' names of parts -> openai-whisper's (whisper/model.py); those of encoder and decoder themselves apart
PARTS = {
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
TOP = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
}


def dims(model: WhisperForConditionalGeneration) -> dict[str, int]:
    """The sizes, under openai-whisper's names."""
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


def renamed(name: str) -> str:
    """The name of a parameter in openai-whisper: model.encoder.layers.0.fc1.bias -> encoder.blocks.0.mlp.0.bias."""
    name = name.removeprefix("model.")
    for ours, theirs in TOP.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return ".".join(PARTS.get(part, part) for part in name.split("."))


def write_openai(model: WhisperForConditionalGeneration, path: Path) -> None:
    """Write `dims` and `model_state_dict` for whisper.load_model(path).

    The one exception to safetensors, because the package reads nothing else; it is written, never read back here
    but by the package itself, which loads weights only.
    """
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in model.state_dict().items():
        if name != "proj_out.weight":  # tied to the embeddings, which openai-whisper multiplies with
            state[renamed(name)] = value.detach().cpu().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"dims": dims(model), "model_state_dict": state}, partial)
    os.replace(partial, path)
