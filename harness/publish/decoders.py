"""Decode a sample with each published form in its own program, to check it.

All decoders are greedy and follow the same rules; each returns one text per row.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

from harness.data.batches import chunks
from harness.data.labels import prompt_ids
from harness.errors import UserError
from harness.evaluation.decoding import Decoder
from harness.model.methods import detach, load_trained
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext, make_accelerator

Texts = list[str]
BATCH = 8
INSTALL = {
    "whisper": "pip install tiktoken && pip install --no-deps openai-whisper (--no-deps, or it installs triton too)",
    "ctranslate2": "pip install 'whisper-sweep[publish]', or pip install ctranslate2",
}


def import_package(module: str) -> Any:
    """Import a package that only one form needs.

    Raises:
        UserError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this form needs the package {module} ({error}): {INSTALL[module]}") from None


def decode_with_transformers(context: TrainerContext, model: torch.nn.Module, rows: Sequence[int]) -> Texts:
    """Decode with a Transformers model, resident or loaded from a published folder."""
    settings = replace(context.decoding, batch_size=BATCH)
    accelerator = make_accelerator("fp32", context.base.device)
    decoder = Decoder(model, context.base, context.speech, settings, accelerator)
    return [transcript.hypothesis for transcript in decoder.transcribe(rows)]


def decode_with_adapter(context: TrainerContext, config: TrialConfig, folder: Path, rows: Sequence[int]) -> Texts:
    """Decode with the base model and the published adapter."""
    plain = config.model_copy(update={"init_lora_weights": "default"})
    model: torch.nn.Module = context.base.model
    try:
        model = load_trained(context.base, plain, folder)
        return decode_with_transformers(context, model, rows)
    finally:
        detach(context.base, model)


def decode_with_merged(context: TrainerContext, folder: Path, rows: Sequence[int]) -> Texts:
    """Decode with the merged model, loaded as a user loads it."""
    loaded: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return decode_with_transformers(context, loaded.to(context.base.device), rows)


def decode_with_openai(context: TrainerContext, path: Path, rows: Sequence[int]) -> Texts:
    """Decode with the model of openai-whisper.

    The package's own decoder supports Whisper's vocabulary only. This is the same greedy search over the model's logits
    and also works for other vocabularies.
    """
    model = import_package("whisper").load_model(str(path), device=str(context.base.device))

    def encode(features: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        states = model.encoder(features)
        return lambda tokens: model.decoder(tokens, states)[:, -1]

    return [text for batch in chunks(list(rows), BATCH) for text in _decode_greedily(context, batch, encode)]


def _decode_greedily(
    context: TrainerContext,
    rows: Sequence[int],
    encode: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]],
) -> Texts:
    """Decode one batch.

    Args:
        context: Model and data.
        rows: The utterances.
        encode: Takes features (clips, mel bins, frames); returns a function from tokens so far (clips, tokens) to
            logits of the next one (clips, vocabulary).
    """
    generation: Any = context.base.model.generation_config
    tokenizer = context.base.processor.tokenizer
    features = torch.from_numpy(np.asarray(context.speech.features[list(rows)], dtype=np.float32)).to(
        context.base.device
    )
    tokens = torch.tensor([prompt(context, row) for row in rows], device=context.base.device)
    begin, end = tokens.shape[1], context.pad_token
    with torch.inference_mode():
        next_logits = encode(features)
        for step in range(context.decoding.max_new_tokens):
            scores = next_logits(tokens)
            scores[:, list(generation.suppress_tokens or ())] = -torch.inf
            scores[:, int(generation.no_timestamps_token_id) + 1 :] = -torch.inf
            if step == 0:
                scores[:, list(generation.begin_suppress_tokens or ())] = -torch.inf
            ended = (tokens[:, begin:] == end).any(dim=1)
            chosen = scores.argmax(dim=1).masked_fill(ended, end)
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
            if bool((tokens[:, begin:] == end).any(dim=1).all()):
                break
    texts: Texts = tokenizer.batch_decode(tokens[:, begin:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def prompt(context: TrainerContext, row: int) -> list[int]:
    """Return the tokens <|startoftranscript|><|language|><|task|><|notimestamps|> for one utterance."""
    generation: Any = context.base.model.generation_config
    return prompt_ids(generation, context.speech.utterances[row].language, context.decoding.task)


def decode_with_ctranslate2(context: TrainerContext, folder: Path, rows: Sequence[int]) -> Texts:
    """Decode with CTranslate2, which faster-whisper uses."""
    package = import_package("ctranslate2")
    model = package.models.Whisper(str(folder), device="cpu", compute_type="float32")
    tokenizer = context.base.processor.tokenizer
    texts: Texts = []
    for batch in chunks(list(rows), BATCH):
        mel = np.ascontiguousarray(context.speech.features[batch], dtype=np.float32)
        prompts = [prompt(context, row) for row in batch]
        max_length = 2 * context.decoding.max_new_tokens  # CTranslate2 stops at half of it (whisper.cc)
        results = model.generate(package.StorageView.from_array(mel), prompts, beam_size=1, max_length=max_length)
        texts += [tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True).strip() for result in results]
    return texts
