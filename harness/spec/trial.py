"""The configuration of one trial: every setting that can be fixed or sampled, under the name its library gives it."""

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
# A setting that means something only beside another one: name -> (the other, whether its value lets this one apply).
CONDITIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{name: ("method", lambda method: method == "lora") for name in LORA_FIELDS},
    **{name: ("optim", lambda optim: optim != "adafactor") for name in ("adam_beta1", "adam_beta2", "adam_epsilon")},
    "mask_time_length": ("mask_time_prob", lambda share: share > 0),
    "mask_feature_length": ("mask_feature_prob", lambda share: share > 0),
}


def applies(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a setting applies beside the others; `values` lacks those that keep their default."""
    if name not in CONDITIONS:
        return True
    other, holds = CONDITIONS[name]
    return holds(values.get(other, TrialConfig.model_fields[other].default))


class TrialConfig(Spec):
    """How one trial fine-tunes the base model; `method: none` decodes it as it is."""

    method: Method = Field(description="lora, full (all weights), frozen_encoder (the decoder) or none (zero-shot)")

    r: int | None = Field(None, ge=1, le=1024, description="LoRA rank")
    lora_alpha: float | None = Field(None, gt=0, description="LoRA scale: the update is multiplied by lora_alpha / r")
    alpha_over_r: float | None = Field(None, gt=0, description="the same scale given as lora_alpha / r")
    lora_dropout: float | None = Field(None, ge=0, lt=1, description="dropout before the LoRA matrices")
    target_modules: tuple[TargetModule, ...] | None = Field(
        None, min_length=1, description="projections that get an adapter; all-linear stands for all six"
    )
    scope: Literal["both", "encoder", "decoder"] | None = Field(
        None, description="where adapters go; unset: encoder and decoder"
    )
    layers_to_transform: tuple[int, ...] | None = Field(
        None, min_length=1, description="indices of the layers that get adapters, in each half of the scope; unset: all"
    )
    bias: Literal["none", "all", "lora_only"] | None = Field(
        None, description="biases trained beside the adapters: none, all, or those of adapted projections"
    )
    use_rslora: bool | None = Field(None, description="scale by lora_alpha / sqrt(r) (rank-stabilised LoRA)")
    use_dora: bool | None = Field(None, description="train magnitude and direction apart (DoRA)")
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora"] | None = Field(
        None, description="how the LoRA matrices begin; pissa and olora move part of the base into them"
    )

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="what follows the warm-up: decay to zero, or none"
    )
    warmup_steps: int | None = Field(None, ge=0, description="optimizer steps of linear warm-up")
    warmup_ratio: float | None = Field(None, ge=0, le=1, description="warm-up as a fraction of all steps")
    optim: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor"] = Field(
        "adamw", description="optimizer; the 8-bit ones are bitsandbytes'"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of Adam's mean of gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of Adam's mean of squared gradients")
    adam_epsilon: float = Field(1e-8, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all tokens")

    per_device_train_batch_size: int = Field(16, ge=1, description="examples in one forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes in one optimizer step")
    group_by_length: bool = Field(
        False, description="put transcripts of like length into one step; changes the order and nothing else"
    )
    auto_micro_batch: bool = Field(
        False, description="when memory runs out, halve the one and double the other, and begin again"
    )

    precision: Precision = Field("fp32", description="compute: fp32, tf32 (CUDA), bf16 or fp16 autocast (fp16: CUDA)")
    base_weights: BaseWeights = Field("full", description="the frozen base: full, int8 (LLM.int8), nf4, nf4_double")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of hidden states, in encoder and decoder")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention weights")
    activation_dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside the feed-forward layers")
    mask_time_prob: float = Field(0.0, ge=0, lt=1, description="SpecAugment: share of frames masked")
    mask_time_length: int = Field(10, ge=1, description="SpecAugment: frames in one mask")
    mask_feature_prob: float = Field(0.0, ge=0, lt=1, description="SpecAugment: share of mel bins masked")
    mask_feature_length: int = Field(10, ge=1, description="SpecAugment: mel bins in one mask")
    forced_language: bool = Field(
        True, description="decode with the language named; false: the model detects it, as generate does untold"
    )
    augmentation: str | None = Field(None, description="what training hears changed: a file of augmentations/, by name")
    encoder_window_seconds: float | None = Field(
        None, gt=0, multiple_of=0.02, description="a shorter encoder window; unset: the model's own (30 s)"
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _all_linear(cls, value: Any) -> Any:
        return ALL_LINEAR if value == "all-linear" else value

    @model_validator(mode="after")
    def _lora_fields_belong_to_lora(self) -> Self:
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
    def _can_work(self) -> Self:
        """Refuse what would fail, or silently do something else, once it runs."""
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        if self.base_weights != "full":
            if self.method not in ("lora", "none"):
                raise ValueError(f"method {self.method} cannot train a base in {self.base_weights}; use lora")
            if self.init_lora_weights in ("pissa", "olora"):
                raise ValueError(
                    f"{self.init_lora_weights} changes the base, which cannot be done in {self.base_weights}"
                )
            if self.bias == "all":
                raise ValueError(f"bias all does not go with a base in {self.base_weights}; use lora_only or none")
        if self.use_dora and self.init_lora_weights in ("pissa", "olora"):
            raise ValueError(f"DoRA does not go with {self.init_lora_weights}")
        if self.method == "none" and self.encoder_window_seconds is not None:
            raise ValueError("a zero-shot system keeps the model's own window")
        return self

    def refused_on(self, device: str) -> str | None:
        """Why the configuration cannot run on a device (cpu, cuda), or None."""
        if device == "cpu" and self.precision in ("fp16", "tf32"):
            return f"precision {self.precision} needs a CUDA GPU; a CPU computes in fp32 or bf16"
        if device == "cpu" and self.optim == "paged_adamw_8bit":
            return "paged_adamw_8bit pages between GPU and host memory, and needs a CUDA GPU; use adamw_8bit"
        return None

    @property
    def alpha(self) -> float | None:
        """The LoRA scale, however it was given."""
        if self.alpha_over_r is not None and self.r is not None:
            return self.alpha_over_r * self.r
        return self.lora_alpha

    def halved(self) -> Self | None:
        """The same effective batch from half the micro-batch and twice the accumulation; an odd one has no half."""
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
        """Examples in one optimizer step of one process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def warmup(self, total_steps: int) -> int:
        """Warm-up steps in a run of `total_steps`."""
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * total_steps)
        return self.warmup_steps or 0

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, and the settings every table shows, as plain JSON values."""
        if self.method == "none":
            return {"method": "none"}
        always = {"method", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "precision"}
        full = self.model_dump(mode="json", exclude_none=True)
        changed = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return {name: value for name, value in full.items() if name in always or name in changed}
