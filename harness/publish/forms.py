"""Write the merged model for Transformers, and convert it for CTranslate2."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import WhisperForConditionalGeneration

from harness.model.base import Base
from harness.publish.best_run import BestRun
from harness.publish.decoders import import_package


def write_merged(model: WhisperForConditionalGeneration, base: Base, best_run: BestRun, folder: Path) -> None:
    """Write weights (safetensors, fp32), configuration, tokenizer and feature extractor of a merged model.

    Its generation configuration contains the task and, if there is only one, the language, so that a user need not
    name them. preprocessor_config.json is for faster-whisper and older versions of Transformers.
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
    """Convert a merged model for CTranslate2, and add the files that faster-whisper reads."""
    package = import_package("ctranslate2")
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = ["tokenizer.json", "preprocessor_config.json"]
    package.converters.TransformersConverter(str(merged), copy_files=files).convert(str(folder))
