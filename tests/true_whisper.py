"""True pretrained Whisper models, where a machine has them; no test needs them."""

import os
from pathlib import Path

import pytest

MODELS = Path(os.environ.get("WHISPER_SWEEP_TRUE_MODELS", "/tmp/whisper"))
SPEECH = Path(__file__).parents[2] / "shared" / "speech"


def true_model(name: str) -> Path:
    """The folder of a model, such as whisper-base; skips the test if it is not there."""
    if not (MODELS / name / "model.safetensors").is_file():
        pytest.skip(f"no {name} in {MODELS}")
    return MODELS / name


def true_speech(name: str) -> Path:
    """A folder of real speech; skips the test if it is not there."""
    if not (SPEECH / name).is_dir():
        pytest.skip(f"no {name} in {SPEECH}")
    return SPEECH / name
