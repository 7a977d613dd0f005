"""Define the configuration of a trial: all settings that can be fixed or sampled, as their libraries name them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.spec.base import Spec

Method = Literal["none", "full", "frozen_encoder", "lora"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
BaseWeights = Literal["full", "int8", "nf4", "nf4_double"]
TargetModule = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]

ALL_LINEAR: tuple[TargetModule, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
REQUIRED_FOR_LORA = ("r", "lora_dropout", "target_modules")
LORA_FIELDS = (
    *REQUIRED_FOR_LORA,
    "lora_alpha",
    "alpha_over_r",
    "scope",
    "layers_to_transform",
    "bias",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
)
# Settings that apply only for some values of another one: name -> (other setting, whether its value makes this apply).
CONDITIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{name: ("method", lambda method: method == "lora") for name in LORA_FIELDS},
    **{name: ("optim", lambda optim: optim != "adafactor") for name in ("adam_beta1", "adam_beta2", "adam_epsilon")},
    "mask_time_length": ("mask_time_prob", lambda share: share > 0),
    "mask_feature_length": ("mask_feature_prob", lambda share: share > 0),
}


def applies(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a setting applies.

    Args:
        name: The setting.
        values: The other settings; those with their default may be missing.
    """
    if name not in CONDITIONS:
        return True
    other, condition = CONDITIONS[name]
    return condition(values.get(other, TrialConfig.model_fields[other].default))


class TrialConfig(Spec):
    """Configuration of a trial; `method: none` is the zero-shot base model."""

    method: Method = Field(description="lora, full (all weights), frozen_encoder (decoder weights) or none (zero-shot)")

    r: int | None = Field(None, ge=1, le=1024, description="LoRA rank")
    lora_alpha: float | None = Field(None, gt=0, description="LoRA alpha: the update is scaled by lora_alpha / r")
    alpha_over_r: float | None = Field(None, gt=0, description="LoRA alpha given as lora_alpha / r")
    lora_dropout: float | None = Field(None, ge=0, lt=1, description="dropout before the LoRA matrices")
    target_modules: tuple[TargetModule, ...] | None = Field(
        None, min_length=1, description="projections that get an adapter; all-linear: all six"
    )
    scope: Literal["both", "encoder", "decoder"] | None = Field(
        None, description="which half gets adapters; unset: encoder and decoder"
    )
    layers_to_transform: tuple[int, ...] | None = Field(
        None, min_length=1, description="indices of the layers that get adapters, in each half of scope; unset: all"
    )
    bias: Literal["none", "all", "lora_only"] | None = Field(
        None, description="biases to train: none, all, or those of projections with an adapter"
    )
    use_rslora: bool | None = Field(None, description="scale by lora_alpha / sqrt(r) (rank-stabilised LoRA)")
    use_dora: bool | None = Field(None, description="train magnitude and direction separately (DoRA)")
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora"] | None = Field(
        None, description="initialization of the LoRA matrices; pissa and olora move part of the base weights into them"
    )

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="schedule after the warm-up: decay to zero, or constant"
    )
    warmup_steps: int | None = Field(None, ge=0, description="optimizer steps of linear warm-up")
    warmup_ratio: float | None = Field(None, ge=0, le=1, description="warm-up as a fraction of the schedule")
    optim: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor"] = Field(
        "adamw", description="optimizer; the 8-bit ones are from bitsandbytes, and keep embeddings in 32 bit"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay; not of biases and layer norms")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of Adam's mean of gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of Adam's mean of squared gradients")
    adam_epsilon: float = Field(1e-8, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    label_smoothing_factor: float = Field(
        0.0, ge=0, lt=1, description="label smoothing: share of the target spread over all tokens"
    )

    leading_space: bool = Field(
        True, description="start labels with a space where Whisper writes one; false: never, as the tutorials do"
    )

    per_device_train_batch_size: int = Field(16, ge=1, description="examples in one forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes in one optimizer step")
    group_by_length: bool = Field(
        False, description="batch transcripts of similar length; changes the order of examples only"
    )
    auto_micro_batch: bool = Field(
        False, description="if memory runs out, restart with half the batch and twice the accumulation steps"
    )

    precision: Precision = Field(
        "fp32", description="compute precision: fp32, tf32 (CUDA), bf16 autocast, or fp16 autocast (CUDA)"
    )
    base_weights: BaseWeights = Field("full", description="frozen base weights: full, int8 (LLM.int8), nf4, nf4_double")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of hidden states in encoder and decoder")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention weights")
    activation_dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside the feed-forward layers")
    mask_time_prob: float = Field(0.0, ge=0, lt=1, description="SpecAugment: share of masked frames")
    mask_time_length: int = Field(10, ge=1, description="SpecAugment: frames per mask")
    mask_feature_prob: float = Field(0.0, ge=0, lt=1, description="SpecAugment: share of masked mel bins")
    mask_feature_length: int = Field(10, ge=1, description="SpecAugment: mel bins per mask")
    forced_language: bool = Field(True, description="decode with the language given; false: the model detects it")
    augmentation: str | None = Field(
        None, description="augmentation of the training clips: name of a file in augmentations/"
    )
    encoder_window_seconds: float | None = Field(
        None, gt=0, multiple_of=0.02, description="shorter encoder window; unset: the model's own (30 s)"
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _expand_all_linear(cls, value: Any) -> Any:
        return ALL_LINEAR if value == "all-linear" else value

    @model_validator(mode="after")
    def _check_lora_fields(self) -> Self:
        given = [name for name in LORA_FIELDS if getattr(self, name) is not None]
        if self.method != "lora" and given:
            raise ValueError(f"method {self.method} has no {', '.join(given)}")
        if self.method == "lora":
            missing = [name for name in REQUIRED_FOR_LORA if name not in given]
            if missing:
                raise ValueError(f"method lora needs {', '.join(missing)}")
            if (self.lora_alpha is None) == (self.alpha_over_r is None):
                raise ValueError("method lora needs lora_alpha or alpha_over_r, and not both")
        if self.target_modules and len(set(self.target_modules)) < len(self.target_modules):
            raise ValueError("target_modules names a module twice")
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        """Refuse combinations that would fail, or silently do something else."""
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        if self.base_weights != "full":
            if self.method not in ("lora", "none"):
                raise ValueError(f"method {self.method} cannot train base weights in {self.base_weights}; use lora")
            if self.init_lora_weights in ("pissa", "olora"):
                raise ValueError(
                    f"{self.init_lora_weights} changes the base weights, which is not possible in {self.base_weights}"
                )
            if self.bias == "all":
                raise ValueError(
                    f"bias all cannot be combined with base weights in {self.base_weights}; use lora_only or none"
                )
        if self.use_dora and self.init_lora_weights in ("pissa", "olora"):
            raise ValueError(f"DoRA cannot be combined with {self.init_lora_weights}")
        if self.method == "none" and self.encoder_window_seconds is not None:
            raise ValueError("method none cannot change the encoder window")
        return self

    def refused_on(self, device: str) -> str | None:
        """Return why the configuration cannot run on a device (cpu, cuda), or None."""
        if device == "cpu" and self.precision in ("fp16", "tf32"):
            return f"precision {self.precision} needs a CUDA GPU; a CPU computes in fp32 or bf16"
        if device == "cpu" and self.optim == "paged_adamw_8bit":
            return "paged_adamw_8bit pages between GPU and host memory, and needs a CUDA GPU; use adamw_8bit"
        return None

    @property
    def alpha(self) -> float | None:
        """LoRA alpha, from lora_alpha or alpha_over_r."""
        if self.alpha_over_r is not None and self.r is not None:
            return self.alpha_over_r * self.r
        return self.lora_alpha

    def with_half_batch(self) -> Self | None:
        """Halve the batch and double the accumulation steps; None if the batch size is odd."""
        if self.per_device_train_batch_size % 2:
            return None
        return self.model_copy(
            update={
                "per_device_train_batch_size": self.per_device_train_batch_size // 2,
                "gradient_accumulation_steps": self.gradient_accumulation_steps * 2,
            }
        )

    @property
    def effective_batch_size(self) -> int:
        """Examples per optimizer step of one process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def warmup(self, total_steps: int) -> int:
        """Return the number of warm-up steps of a schedule of `total_steps`."""
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * total_steps)
        return self.warmup_steps or 0

    def settings(self) -> dict[str, Any]:
        """Return settings that differ from their default and those that all tables show, as JSON values."""
        if self.method == "none":
            return {"method": "none"}
        always = {"method", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "precision"}
        full = self.model_dump(mode="json", exclude_none=True)
        changed = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return {name: value for name, value in full.items() if name in always or name in changed}
