"""A stored adapter as plain LoRA, which needs nothing but the base as published."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from harness.model.base import Base
from harness.model.methods import attach, detach
from harness.spec.trial import TrialConfig

MOVING = ("pissa", "olora")  # these move part of the base into the adapter
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(base: Base, config: TrialConfig, weights: Path, target: Path) -> str:
    """Copy an adapter to `target`, and say how; a PiSSA or OLoRA one becomes plain LoRA of twice the rank.

    Such an adapter holds B A where the base was made W - s B0 A0 (Meng et al. 2024, Büyükakyüz 2024), so on the base
    as published it is s (B A - B0 A0): the columns of B beside those of -B0, the rows of A above those of A0.
    (DoRA, with which that would not hold, goes with neither: TrialConfig refuses it.)
    """
    target.mkdir(parents=True, exist_ok=True)
    if config.init_lora_weights not in MOVING:
        for name in (WEIGHTS, SETTINGS):
            shutil.copyfile(weights / name, target / name)
        return "plain LoRA, as trained"
    trained, first = load_file(weights / WEIGHTS), _first(base, config)
    doubled = {}
    for name, value in trained.items():
        if ".lora_A." in name:
            value = torch.cat([value, first[name]], dim=0)
        elif ".lora_B." in name:
            value = torch.cat([value, -first[name]], dim=1)
        doubled[name] = value.contiguous()
    save_file(doubled, target / WEIGHTS, metadata={"format": "pt"})
    settings: dict[str, Any] = json.loads((weights / SETTINGS).read_text(encoding="utf-8"))
    grown = math.sqrt(2) if config.use_rslora else 2  # so that the scale stays alpha / r, or alpha / sqrt(r)
    settings |= {"r": 2 * settings["r"], "lora_alpha": grown * settings["lora_alpha"], "init_lora_weights": True}
    (target / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return f"{config.init_lora_weights} of rank {config.r}, converted to plain LoRA of rank {settings['r']}"


def _first(base: Base, config: TrialConfig) -> dict[str, torch.Tensor]:
    """The matrices as they were before training: both decompositions are deterministic."""
    model = attach(base, config)
    try:
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        return {name: value.detach().cpu().clone() for name, value in state.items()}
    finally:
        detach(base, model)
