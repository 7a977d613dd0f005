"""Configurations of every kind, and one trial run in this process on the resident base."""

import torch

from harness.spec.budget import Budget
from harness.spec.messages import Train
from harness.spec.trial import TrialConfig
from harness.training.trial import run_trial

LONGER = Budget(examples=192, rungs=(0.5, 1.0))  # 24 steps of 8
FULL_CONFIG = TrialConfig(method="full", learning_rate=5e-4, warmup_ratio=0.1, per_device_train_batch_size=8)
BUDGET = Budget(examples=160, rungs=(0.2, 1.0))  # 20 steps of 8
LORA = {
    "method": "lora",
    "r": 8,
    "alpha_over_r": 2,
    "lora_dropout": 0.05,
    "target_modules": "all-linear",
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 8,
}
FULL = {"method": "full", "learning_rate": 5e-4, "per_device_train_batch_size": 8}
VARIANTS = {
    "lora": LORA,
    "rslora": LORA | {"use_rslora": True, "alpha_over_r": 0.5},
    "dora": LORA | {"use_dora": True},
    "gaussian": LORA | {"init_lora_weights": "gaussian"},
    "pissa": LORA | {"init_lora_weights": "pissa", "learning_rate": 1e-3},
    "olora": LORA | {"init_lora_weights": "olora", "learning_rate": 1e-3},
    "bias all": LORA | {"bias": "all"},
    "bias lora_only": LORA | {"bias": "lora_only"},
    "decoder": LORA | {"scope": "decoder", "learning_rate": 1e-2},
    "encoder": LORA | {"scope": "encoder"},
    "last layers": LORA | {"layers_to_transform": (2, 3)},
    "full": FULL,
    "frozen encoder": FULL | {"method": "frozen_encoder", "learning_rate": 1e-3},
    "adafactor": LORA | {"optim": "adafactor"},
    "cosine, smoothing, decay": LORA
    | {"lr_scheduler_type": "cosine", "label_smoothing_factor": 0.05, "weight_decay": 0.1},
    "constant": LORA | {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2},
    "bf16": LORA | {"precision": "bf16"},
    "checkpointing": LORA | {"gradient_checkpointing": True},
    "dropouts": LORA | {"dropout": 0.05, "attention_dropout": 0.05, "activation_dropout": 0.05},
    "masking": LORA | {"mask_time_prob": 0.05, "mask_feature_prob": 0.05, "mask_feature_length": 4},
    "augmented": LORA | {"augmentation": "light"},
    "spec-augmented": LORA | {"augmentation": "specaugment"},
    "by length": LORA | {"group_by_length": True},
    "window": LORA | {"encoder_window_seconds": 2.8},
    "8-bit adam": FULL | {"optim": "adamw_8bit"},
}
QUANTISED = {
    "int8": LORA | {"base_weights": "int8"},
    "nf4": LORA | {"base_weights": "nf4"},
    "nf4 double": LORA | {"base_weights": "nf4_double"},
}


def state(base):
    """Everything the model computes with, tensors and the settings that a trial may change."""
    tensors = {name: value.clone() for name, value in base.model.state_dict().items()}
    rates = [module.dropout for module in base.model.modules() if isinstance(getattr(module, "dropout", None), float)]
    return tensors, base.model.config.to_dict(), rates


def same(one, other):
    return one[1:] == other[1:] and all(torch.equal(value, other[0][name]) for name, value in one[0].items())


def run(context, config, folder, go_on=True, budget=LONGER, seed=1):
    folder.mkdir(exist_ok=True)
    trial = run_trial(context, Train(config=config, budget=budget, seed=seed, attempt=str(folder)))
    decision = None
    while True:
        try:
            trial.send(decision)
        except StopIteration as end:
            return end.value.result
        decision = go_on


def seen(result):
    """What must be equal: all but the times."""
    return [
        rung.model_dump(exclude={"train_seconds", "evaluation_seconds", "peak_memory_bytes"}) for rung in result.rungs
    ]
