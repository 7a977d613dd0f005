"""Load a Whisper base model that stays in memory over many trials, and restore it after each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration, WhisperProcessor

from harness.catalog import model_location
from harness.data.labels import repair_merges
from harness.errors import UserError, nearest
from harness.model_size.parameters import OFFICIAL
from harness.spec.trial import BaseWeights

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A loaded Whisper model with its processor.

    Attributes:
        name: The name or folder that it was loaded by.
        model: The model; `harness.model.methods.attach` makes it trainable.
        processor: Feature extractor and tokenizer.
        device: The device of the weights.
        weights: "full" (fp32) or a quantization.
        original_weights: A copy of every weight that training could change, by name.
    """

    name: str
    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    device: torch.device
    weights: BaseWeights
    original_weights: dict[str, Tensor]

    def restore(self) -> None:
        """Restore every weight bit for bit, frozen, without gradients, in evaluation mode.

        Full fine-tuning changes the weights, `bias` trains some of them, PiSSA and OLoRA move part of them into the
        adapter, and merging leaves rounding errors. Quantized weights are never written to.
        """
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in self.original_weights.items():
                tensors[name].copy_(value)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.model.eval()


def load_base(name: str, device: torch.device, weights: BaseWeights = "full", sdpa: bool = True) -> Base:
    """Load a model from a folder or the hub, from safetensors files only.

    Args:
        name: A folder, a hub name, or "demo".
        device: Where to put the weights.
        weights: "full" loads fp32; the others quantize with bitsandbytes.
        sdpa: Use torch's scaled dot-product attention instead of transformers' eager one.

    Raises:
        UserError: If the model cannot be found, downloaded or read, or is not a Whisper model.
    """
    location = model_location(name)
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            location,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="sdpa" if sdpa else "eager",
            **_quantization_arguments(weights, device),
        )
        processor = load_processor(location)
    except Exception as error:  # transformers, safetensors and the hub raise different types
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = "folder" if Path(location).is_dir() else "model"
        raise UserError(
            f"cannot load the {kind} {name!r}: {first_line}\n       expected a folder with a Whisper model in "
            f"transformers format, or a hub name that can be downloaded or is already cached; "
            f"{nearest(name, [*OFFICIAL, 'demo'])}"
        ) from None
    model.name_or_path = name  # written to adapter_config.json: the name as given, never a path of this machine
    if weights == "full":
        torch.nn.Module.to(model, device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On these CPUs bitsandbytes repacks 4-bit weights at the first evaluation, after which they cannot train.
            module.__dict__["support_avx512bf16_for_cpu"] = False
    # Quantized weights are integers and never change; a trial may train the floating-point ones.
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    original_weights = {key: value.detach().clone() for key, value in tensors.items() if value.is_floating_point()}
    base = Base(name, model, processor, device, weights, original_weights)
    base.restore()
    return base


def load_processor(location: str) -> WhisperProcessor:
    """Load feature extractor and tokenizer from a folder or the hub."""
    processor: WhisperProcessor = WhisperProcessor.from_pretrained(location)
    repair_merges(processor.tokenizer)
    return processor


def _quantization_arguments(weights: BaseWeights, device: torch.device) -> dict[str, Any]:
    """Return from_pretrained's arguments for a quantized base; the output projection stays tied to the embeddings."""
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
