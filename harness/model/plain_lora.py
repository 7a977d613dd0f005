"""Convert a stored adapter to plain LoRA, which works on the published base model."""

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

CHANGES_BASE = ("pissa", "olora")  # initializations that move part of the base weights into the adapter
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(base: Base, config: TrialConfig, weights: Path, target: Path) -> str:
    """Write an adapter as plain LoRA, and return a description of it.

    A PiSSA or OLoRA adapter becomes plain LoRA of twice the rank; any other is copied. PiSSA and OLoRA train B A with
    scale s on the changed base W - s B0 A0 (Meng et al. 2024, Büyükakyüz 2024). On the published base W the same
    update is s (B A - B0 A0): the columns of B and of -B0 side by side, the rows of A above those of A0. This does not
    hold for DoRA, which TrialConfig does not allow with either.

    Args:
        base: The base model, unchanged.
        config: The configuration of the run.
        weights: The stored adapter's folder.
        target: The folder to write.
    """
    target.mkdir(parents=True, exist_ok=True)
    if config.init_lora_weights not in CHANGES_BASE:
        for name in (WEIGHTS, SETTINGS):
            shutil.copyfile(weights / name, target / name)
        return "plain LoRA, as trained"
    trained, initial = load_file(weights / WEIGHTS), _initial_matrices(base, config)
    converted = {}
    for name, value in trained.items():
        if ".lora_A." in name:
            value = torch.cat([value, initial[name]], dim=0)
        elif ".lora_B." in name:
            value = torch.cat([value, -initial[name]], dim=1)
        converted[name] = value.contiguous()
    save_file(converted, target / WEIGHTS, metadata={"format": "pt"})
    settings: dict[str, Any] = json.loads((weights / SETTINGS).read_text(encoding="utf-8"))
    factor = math.sqrt(2) if config.use_rslora else 2  # keeps the scale, alpha / r or alpha / sqrt(r)
    settings |= {"r": 2 * settings["r"], "lora_alpha": factor * settings["lora_alpha"], "init_lora_weights": True}
    (target / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return f"{config.init_lora_weights} of rank {config.r}, converted to plain LoRA of rank {settings['r']}"


def _initial_matrices(base: Base, config: TrialConfig) -> dict[str, torch.Tensor]:
    """Return the adapter's matrices before training; PiSSA's and OLoRA's decompositions are deterministic."""
    model = attach(base, config)
    try:
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        return {name: value.detach().cpu().clone() for name, value in state.items()}
    finally:
        detach(base, model)
