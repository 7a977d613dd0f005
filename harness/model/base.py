"""The base model that stays resident over many trials."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration, WhisperProcessor

from harness.catalog import model_location
from harness.errors import UserError, nearest
from harness.model.parameters import OFFICIAL
from harness.spec.trial import BaseWeights

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A loaded Whisper with its processor, and a copy of every weight that training could change."""

    name: str
    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    device: torch.device
    weights: BaseWeights
    pristine: dict[str, Tensor]

    def restore(self) -> None:
        """Put every weight back bit for bit, frozen, without gradients, in evaluation mode.

        Full fine-tuning changes the weights themselves, `bias` trains some of them, PiSSA and OLoRA move part of
        them into the adapter, and merging leaves rounding. Quantised weights are never written to.
        """
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in self.pristine.items():
                tensors[name].copy_(value)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.model.eval()


def load_base(name: str, device: torch.device, weights: BaseWeights = "full", sdpa: bool = True) -> Base:
    """Load a model from its folder or the hub, from safetensors only: in fp32, or quantised by bitsandbytes.

    Raises:
        UserError: if it cannot be found, fetched or read, or is no Whisper.
    """
    location = model_location(name)
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            location,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="sdpa" if sdpa else "eager",
            **_quantised(weights, device),
        )
        processor = WhisperProcessor.from_pretrained(location)
    except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = "folder" if Path(location).is_dir() else "model"
        raise UserError(
            f"cannot load the {kind} {name!r}: {first_line}\n       expected a folder with a Whisper in transformers "
            f"form, or a hub name that can be fetched or is already cached; {nearest(name, [*OFFICIAL, 'demo'])}"
        ) from None
    model.name_or_path = name  # goes into adapter_config.json: the name as given, never a path of this machine
    if weights == "full":
        torch.nn.Module.to(model, device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks four-bit weights at the first evaluation on such CPUs; they cannot train after it.
            module.__dict__["support_avx512bf16_for_cpu"] = False
    # Quantised weights are integers; what is floating is the rest, which a trial may train.
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    pristine = {key: value.detach().clone() for key, value in tensors.items() if value.is_floating_point()}
    base = Base(name, model, processor, device, weights, pristine)
    base.restore()
    return base


def _quantised(weights: BaseWeights, device: torch.device) -> dict[str, Any]:
    """What from_pretrained needs for a quantised base; the output projection stays as it is, tied to the embeddings."""
    if weights == "full":
        return {}
    if weights == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["proj_out"])
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=weights == "nf4_double",
            bnb_4bit_compute_dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
            llm_int8_skip_modules=["proj_out"],
        )
    return {"quantization_config": config, "device_map": {"": str(device)}}
