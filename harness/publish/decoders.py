"""Decode a sample with each published form as its reader does: in its own program, from its own files alone.

The model cards show the same calls. All decode greedily, one clip after the other.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperTokenizer, pipeline

from harness.data.audio import SAMPLE_RATE, Samples
from harness.errors import UserError
from harness.evaluation.decoding import Decoder
from harness.evaluation.generation import window_features
from harness.evaluation.long_form import window_limit, window_seconds
from harness.model.base import load_base
from harness.model.methods import detach, load_trained
from harness.model.trial_settings import apply_trial_settings
from harness.spec.trial import TrialConfig
from harness.training.context import PROMPT_TOKENS, TrainerContext, decoding_settings, make_accelerator

Texts = list[str]
INSTALL = {
    "whisper": "pip install tiktoken && pip install --no-deps openai-whisper (--no-deps, or it installs triton too)",
    "ctranslate2": "pip install 'whisper-sweep[publish]', or pip install ctranslate2",
}

ENDLESS = "the published model predicts timestamps that do not advance, and would be decoded for ever"


@dataclass(frozen=True)
class Sample:
    """What each form decodes.

    Attributes:
        clips: 16 kHz mono samples.
        languages: Whisper's code of each clip's language; None lets the model detect it.
        task: "transcribe" or "translate".
    """

    clips: Sequence[Samples]
    languages: Sequence[str | None]
    task: str


def import_package(module: str) -> Any:
    """Import a package that only one form needs.

    Raises:
        UserError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this form needs the package {module} ({error}): {INSTALL[module]}") from None


def make_sample(context: TrainerContext, config: TrialConfig, rows: Sequence[int]) -> Sample:
    """Return the clips of some rows, with the languages that the run is decoded with."""
    utterances = [context.speech.utterances[row] for row in rows]
    languages = [u.language if config.forced_language else None for u in utterances]
    return Sample([context.speech.samples(u) for u in utterances], languages, context.task.task)


def decode_source(context: TrainerContext, config: TrialConfig, model: torch.nn.Module, rows: Sequence[int]) -> Texts:
    """Decode with the run's own model, as it was evaluated, up to the model's own limit of tokens."""
    limit = context.base.model.config.max_target_positions - PROMPT_TOKENS
    settings = replace(decoding_settings(context, config), max_new_tokens=limit)
    decoder = Decoder(model, context.base, context.speech, settings, make_accelerator("fp32", context.base.device))
    return [transcript.hypothesis for transcript in decoder.transcribe(rows)]


def decode_with_adapter(name: str, config: TrialConfig, folder: Path, sample: Sample, device: torch.device) -> Texts:
    """Decode with a freshly loaded base model and the published adapter, loaded by PEFT."""
    base = load_base(name, device, config.base_weights)
    plain = config.model_copy(update={"init_lora_weights": "default"})
    model = load_trained(base, plain, folder)
    texts = []
    with apply_trial_settings(base, plain), torch.inference_mode():
        for clip, language in zip(sample.clips, sample.languages, strict=True):
            options: dict[str, Any] = {}
            if _is_multilingual(base.model):
                options = {"language": language, "task": sample.task}
            options["monitor_progress"] = window_limit(len(clip) / SAMPLE_RATE, window_seconds(base), ENDLESS)
            ids = model.generate(input_features=window_features(base, [clip]).to(device), **options)  # type: ignore[operator]
            texts += base.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    detach(base, model)
    return [text.strip() for text in texts]


def decode_with_merged(folder: Path, sample: Sample, device: torch.device) -> Texts:
    """Decode with Transformers' pipeline, whose default is 5 beams; a language is named only if the folder has none."""
    recognize: Any = pipeline("automatic-speech-recognition", model=str(folder), dtype=torch.float32, device=device)
    named = getattr(recognize.model.generation_config, "language", None)
    texts = []
    for clip, language in zip(sample.clips, sample.languages, strict=True):
        progress = window_limit(len(clip) / SAMPLE_RATE, 30.0, ENDLESS)
        options: dict[str, Any] = {"num_beams": 1, "monitor_progress": progress}
        if language and not named and _is_multilingual(recognize.model):
            options["language"] = language
        texts.append(recognize({"raw": clip, "sampling_rate": SAMPLE_RATE}, generate_kwargs=options)["text"].strip())
    return texts


def decode_with_openai(path: Path, sample: Sample, device: torch.device) -> Texts:
    """Decode with openai-whisper."""
    model = import_package("whisper").load_model(str(path), device=str(device))
    return [
        model.transcribe(clip, language=language, task=sample.task, temperature=0, without_timestamps=True, fp16=False)[
            "text"
        ].strip()
        for clip, language in zip(sample.clips, sample.languages, strict=True)
    ]


def decode_with_ctranslate2(folder: Path, sample: Sample) -> Texts:
    """Decode with CTranslate2, which faster-whisper uses, and the tokenizer and feature settings in the folder."""
    package = import_package("ctranslate2")
    model = package.models.Whisper(str(folder), device="cpu", compute_type="float32")
    extractor, tokenizer = WhisperFeatureExtractor.from_pretrained(folder), WhisperTokenizer.from_pretrained(folder)
    multilingual = bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("lang_ids"))
    texts = []
    for clip, language in zip(sample.clips, sample.languages, strict=True):
        mel = extractor(clip, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features
        features = package.StorageView.from_array(np.ascontiguousarray(mel, dtype=np.float32))
        spoken = f"<|{language}|>" if language or not multilingual else model.detect_language(features)[0][0][0]
        inner = [spoken, f"<|{sample.task}|>"] if multilingual else []
        prompt = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", *inner, "<|notimestamps|>"])
        (result,) = model.generate(features, [prompt], beam_size=1)
        texts.append(tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True).strip())
    return texts


def _is_multilingual(model: Any) -> bool:
    return bool(getattr(model.generation_config, "is_multilingual", True))
