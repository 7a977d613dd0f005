"""Apply a fine-tuning method to the base model, and save, load and remove what it trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import WhisperForConditionalGeneration

from harness.model.base import Base
from harness.spec.trial import TrialConfig


def attach(base: Base, config: TrialConfig) -> nn.Module:
    """Make the base trainable by the configuration's method, and return the model to train.

    LoRA matrices are initialized from torch's global random generator.
    """
    if config.method == "lora":
        return get_peft_model(base.model, lora_config(config))
    if config.method in ("full", "frozen_encoder"):
        trained = base.model if config.method == "full" else base.model.model.decoder
        trained.requires_grad_(True)
        base.model.model.encoder.embed_positions.requires_grad_(False)  # sinusoids, fixed in Whisper
    return base.model


def lora_config(config: TrialConfig) -> LoraConfig:
    """Return PEFT's configuration of a LoRA method.

    It has no task_type: with SEQ_2_SEQ_LM, PEFT passes input_ids to Whisper (peft#1988).
    """
    assert config.r is not None and config.target_modules is not None
    initializations: dict[str, Any] = {"default": True, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}
    layers = "|".join(map(str, config.layers_to_transform)) if config.layers_to_transform else r"\d+"
    half = config.scope if config.scope in ("encoder", "decoder") else "(encoder|decoder)"
    modules = "|".join(config.target_modules)
    return LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        lora_dropout=config.lora_dropout or 0.0,
        target_modules=rf".*\.{half}\.layers\.({layers})\.(\w+\.)?({modules})",
        bias=config.bias or "none",
        use_rslora=bool(config.use_rslora),
        use_dora=bool(config.use_dora),
        init_lora_weights=initializations[config.init_lora_weights or "default"],
    )


def detach(base: Base, model: nn.Module) -> None:
    """Undo `attach` and all changes by training."""
    if isinstance(model, PeftModel):
        model.unload()
        _remove_adapter_config(base)
    base.restore()


def save(model: nn.Module, folder: Path) -> int:
    """Save the trained weights as safetensors: the adapter, or the whole model. Returns their size in bytes."""
    if isinstance(model, PeftModel):
        # True or "auto" would ask the hub whether embeddings were resized; they never are.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card that contains a path of this machine
    else:
        whisper_of(model).save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load_trained(base: Base, config: TrialConfig, folder: Path) -> nn.Module:
    """Load stored weights into the base for decoding; `detach` undoes it.

    An adapter is merged, except on a quantized base, where merging would round to the quantization grid (logits
    differ by up to 0.25 on nf4).

    Raises:
        ValueError: If stored weights of a full model do not fit the base.
    """
    if config.method == "lora":
        adapted = PeftModel.from_pretrained(base.model, str(folder))
        if base.weights != "full":
            return adapted
        adapted.merge_and_unload()
        _remove_adapter_config(base)
        return base.model
    weights = load_file(folder / "model.safetensors", device=str(base.device))
    missing, unexpected = base.model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"proj_out.weight"}:  # the output projection is tied to the embeddings
        raise ValueError(f"{folder} does not fit the model: missing weights {missing}, unexpected weights {unexpected}")
    return base.model


@contextmanager
def merged_adapter(base: Base, model: nn.Module) -> Iterator[None]:
    """Within the context, merge an adapter into the base for faster decoding; weights are restored bit for bit.

    Not done on a quantized base, nor where PiSSA or OLoRA have changed the base weights, of which there is no copy.
    """
    layers = dict[str, LoraLayer]()
    if isinstance(model, PeftModel) and base.weights == "full" and not _changes_base_weights(model):
        whisper = whisper_of(model)
        layers = {name: layer for name, layer in whisper.named_modules() if isinstance(layer, LoraLayer)}
    for layer in layers.values():
        layer.merge()
    try:
        yield
    finally:
        for name, layer in layers.items():
            base_layer: Any = layer.get_base_layer()
            base_layer.weight.data.copy_(base.original_weights[f"{name}.weight"])
            layer.merged_adapters.clear()


def _changes_base_weights(model: PeftModel) -> bool:
    return any(
        getattr(config, "init_lora_weights", None) in ("pissa", "olora") for config in model.peft_config.values()
    )


def _remove_adapter_config(base: Base) -> None:
    """Remove the configuration that PEFT leaves on the model; it would take the next adapter for a second one."""
    for name in ("peft_config", "_hf_peft_config_loaded"):
        base.model.__dict__.pop(name, None)


def whisper_of(model: nn.Module) -> WhisperForConditionalGeneration:
    """Return the Whisper model inside a model that `attach` returned."""
    whisper = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(whisper, WhisperForConditionalGeneration)
    return whisper


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the (trainable, total) parameters of a model; packed 4-bit weights are counted individually."""
    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
