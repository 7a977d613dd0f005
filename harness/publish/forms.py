"""Writing the forms: a merged model in transformers form, and CTranslate2's made of it."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import WhisperForConditionalGeneration

from harness.model.base import Base
from harness.publish.best_run import BestRun
from harness.publish.decoders import needed


def write_merged(model: WhisperForConditionalGeneration, base: Base, best_run: BestRun, folder: Path) -> None:
    """Weights (safetensors, fp32), configuration, tokenizer and feature extractor; it transcribes its language untold.

    preprocessor_config.json is what faster-whisper and older transformers look for.
    """
    model.save_pretrained(folder)
    base.processor.save_pretrained(folder)
    base.processor.feature_extractor.save_pretrained(folder)
    path = folder / "generation_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings["task"] = best_run.speech_task
    if best_run.language is not None:
        settings["language"] = best_run.language
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_ctranslate2(merged: Path, folder: Path) -> None:
    """CTranslate2's form of a merged model, with the files that faster-whisper reads beside it."""
    package = needed("ctranslate2")
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = ["tokenizer.json", "preprocessor_config.json"]
    package.converters.TransformersConverter(str(merged), copy_files=files).convert(str(folder))
