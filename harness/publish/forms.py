"""Write the merged model for Transformers, convert it for CTranslate2, and say which forms a model can have."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import WhisperForConditionalGeneration

from harness.evaluation.generation import window_extractor
from harness.model.base import Base
from harness.publish.alignment import alignment_heads
from harness.publish.best_run import BestRun
from harness.publish.decoders import import_package

OPENAI_VOCABULARIES = (51864, 51865, 51866)  # English-only, multilingual, large-v3
OPENAI_POSITIONS = 1500  # 30 s


def openai_refusal(base: Base, best_run: BestRun) -> str | None:
    """Return why openai-whisper cannot read the model, or None: it always reads 30 s and has its own vocabulary."""
    config = base.model.config
    if best_run.record.config.encoder_window_seconds is not None or config.max_source_positions != OPENAI_POSITIONS:
        return "openai-whisper always reads windows of 30 s"
    if config.vocab_size not in OPENAI_VOCABULARIES:
        return f"openai-whisper has no vocabulary of {config.vocab_size} tokens"
    return None


def write_merged(model: WhisperForConditionalGeneration, base: Base, best_run: BestRun, folder: Path) -> None:
    """Write weights (safetensors, fp32), configuration, tokenizer and feature extractor of a merged model.

    Its generation configuration contains the task and, if there is only one, the language's token, so that a user need
    not name them, and the alignment heads, which CTranslate2's converter reads too. The encoder window is the present
    one. preprocessor_config.json is for faster-whisper and older versions of Transformers.
    """
    model.save_pretrained(folder)
    extractor = window_extractor(base)
    extractor.chunk_length = round(extractor.chunk_length)
    base.processor.save_pretrained(folder)
    extractor.save_pretrained(folder)
    _update(folder / "processor_config.json", feature_extractor=extractor.to_dict())
    settings: dict[str, Any] = {}
    if heads := alignment_heads(model.generation_config, model.config):
        settings["alignment_heads"] = heads
    if getattr(model.generation_config, "is_multilingual", True):
        settings["task"] = best_run.speech_task
        if best_run.language is not None:
            settings["language"] = best_run.language
    _update(folder / "generation_config.json", **settings)


def _update(path: Path, **values: Any) -> None:
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_ctranslate2(merged: Path, folder: Path) -> None:
    """Convert a merged model for CTranslate2, and add the files that faster-whisper reads."""
    package = import_package("ctranslate2")
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
    package.converters.TransformersConverter(str(merged), copy_files=files).convert(str(folder))
