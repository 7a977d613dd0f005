"""The ways to fine-tune: what becomes trainable, how it is stored, and how it is loaded again."""

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
    """The base made trainable by the configuration's method; LoRA matrices are drawn from torch's global generator."""
    if config.method == "lora":
        return get_peft_model(base.model, lora_config(config))
    if config.method in ("full", "frozen_encoder"):
        trained = base.model if config.method == "full" else base.model.model.decoder
        trained.requires_grad_(True)
        base.model.model.encoder.embed_positions.requires_grad_(False)  # sinusoids, fixed in Whisper
    return base.model


def lora_config(config: TrialConfig) -> LoraConfig:
    """PEFT's configuration. No task_type: SEQ_2_SEQ_LM makes PEFT hand input_ids to Whisper (peft#1988)."""
    assert config.r is not None and config.target_modules is not None
    starts: dict[str, Any] = {"default": True, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}
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
        init_lora_weights=starts[config.init_lora_weights or "default"],
    )


def detach(base: Base, model: nn.Module) -> None:
    """Undo `attach` and whatever training did."""
    if isinstance(model, PeftModel):
        model.unload()
        _forget_adapter(base)
    base.restore()


def save(model: nn.Module, folder: Path) -> int:
    """Store what was trained as safetensors: the adapter alone, or the whole model. Returns bytes of weights."""
    if isinstance(model, PeftModel):
        # Whether embeddings were resized would be looked up on the hub; they never are.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card with a path of this machine
    else:
        whisper_of(model).save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load_trained(base: Base, config: TrialConfig, folder: Path) -> nn.Module:
    """The base with stored weights, ready to decode; `detach` undoes it.

    An adapter is merged. On a quantised base it is not: merging would round to the quantised grid (logits differ
    by up to 0.25 on nf4).
    """
    if config.method == "lora":
        adapted = PeftModel.from_pretrained(base.model, str(folder))
        if base.weights != "full":
            return adapted
        adapted.merge_and_unload()
        _forget_adapter(base)
        return base.model
    weights = load_file(folder / "model.safetensors", device=str(base.device))
    missing, unexpected = base.model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"proj_out.weight"}:  # the output projection is tied to the embeddings
        raise ValueError(f"{folder} does not fit the model: {missing} are missing, {unexpected} unexpected")
    return base.model


@contextmanager
def merged(base: Base, model: nn.Module) -> Iterator[None]:
    """Within it an adapter is part of the weights that it adapts, for fewer products; they come back bit for bit.

    A quantised base is left as it is, and so is one whose weights PiSSA or OLoRA have changed: there is no copy.
    """
    layers = dict[str, LoraLayer]()
    if isinstance(model, PeftModel) and base.weights == "full" and not _moves_weights(model):
        whisper = whisper_of(model)
        layers = {name: layer for name, layer in whisper.named_modules() if isinstance(layer, LoraLayer)}
    for layer in layers.values():
        layer.merge()
    try:
        yield
    finally:
        for name, layer in layers.items():
            adapted: Any = layer.get_base_layer()
            adapted.weight.data.copy_(base.pristine[f"{name}.weight"])
            layer.merged_adapters.clear()


def _moves_weights(model: PeftModel) -> bool:
    return any(
        getattr(config, "init_lora_weights", None) in ("pissa", "olora") for config in model.peft_config.values()
    )


def _forget_adapter(base: Base) -> None:
    """PEFT leaves its configuration on the model, and would take the next adapter for a second one."""
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        base.model.__dict__.pop(leftover, None)


def whisper_of(model: nn.Module) -> WhisperForConditionalGeneration:
    """The Whisper inside what `attach` returned."""
    whisper = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(whisper, WhisperForConditionalGeneration)
    return whisper


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters of a model as it stands; four-bit weights count as the numbers they stand for."""
    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
