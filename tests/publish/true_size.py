"""The demo model with Whisper's full vocabulary: its tokens under Whisper's ids, and unused filler tokens."""

import json
from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from harness.catalog import DEMO_MODEL

TEXT, WHOLE = 50257, 51865  # byte-pair tokens, and all with the special ones, of multilingual Whisper
DEMO_TEXT = 512


def whisper_id(demo: int) -> int:
    """Text tokens keep their ids; the special ones follow from 50257, in Whisper's order."""
    return demo if demo < DEMO_TEXT else demo - DEMO_TEXT + TEXT


def to_whisper_ids(value: object) -> object:
    """Convert the ids inside a generation configuration."""
    if isinstance(value, dict):
        return {key: to_whisper_ids(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_whisper_ids(item) for item in value]
    return whisper_id(value) if isinstance(value, int) and not isinstance(value, bool) else value


def write_true_size(folder: Path) -> None:
    """Write the model to a folder that Transformers can load."""
    model = WhisperForConditionalGeneration.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    old = model.model.decoder.embed_tokens.weight.detach().clone()
    config = model.config
    assert whisper_id(config.vocab_size - 1) == WHOLE - 1
    new = torch.zeros(WHOLE, old.shape[1])
    new[[whisper_id(i) for i in range(len(old))]] = old
    model.resize_token_embeddings(WHOLE, mean_resizing=False)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.copy_(new)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        setattr(config, name, whisper_id(getattr(config, name)))
    model.save_pretrained(folder)
    WhisperProcessor.from_pretrained(DEMO_MODEL).save_pretrained(folder)
    settings = json.loads((DEMO_MODEL / "generation_config.json").read_text())
    ids = {name: value for name, value in settings.items() if name.endswith(("_id", "_ids", "_to_id", "tokens"))}
    settings |= {name: to_whisper_ids(value) for name, value in ids.items()}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {token: i for token, i in tokenizer["model"]["vocab"].items() if i < DEMO_TEXT}
    fillers = {f"<filler {i}>" if i < TEXT - 1 else "": i for i in range(DEMO_TEXT, TEXT)}  # "" as in Whisper
    special = {token: whisper_id(i) for token, i in tokenizer["model"]["vocab"].items() if i >= DEMO_TEXT}
    tokenizer["model"]["vocab"] = {**vocabulary, **fillers, **special}
    for added in tokenizer["added_tokens"]:
        added["id"] = whisper_id(added["id"])
    text = json.dumps(tokenizer)
    (folder / "tokenizer.json").write_text(text)
