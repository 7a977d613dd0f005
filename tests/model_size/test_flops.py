"""The FLOP formula against torch's own counter, and against the figures derived by hand for OpenAI's sizes."""

import pytest
import torch
from examples import batch_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trials import FULL, LORA

from harness.model.loss import token_loss
from harness.model.methods import attach, detach
from harness.model_size.flops import training_flops
from harness.model_size.parameters import OFFICIAL, dimensions_of
from harness.spec.trial import TrialConfig

QV = LORA | {"target_modules": ("q_proj", "v_proj"), "r": 16}


def counted(context, config):
    """(FLOPs of one forward and backward pass, examples, label tokens) as torch sees them."""
    model = attach(context.base, config)
    rows = context.speech.rows("train")[:1] * 2  # equal lengths: padding is computed too
    batch = batch_of(context, rows)
    try:
        # torch's counter does not know the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            token_loss(model, batch).backward()
    finally:
        detach(context.base, model)
    return counter.get_total_flops(), len(rows), batch.label_tokens


@pytest.mark.parametrize(
    "fields",
    [
        FULL,
        FULL | {"method": "frozen_encoder"},
        QV,
        LORA,
        QV | {"scope": "decoder"},
        QV | {"scope": "encoder"},
        QV | {"layers_to_transform": (2, 3)},
        LORA | {"bias": "all"},
    ],
)
def test_the_formula_is_within_five_percent_of_what_torch_counts(context, fields):
    config = TrialConfig.model_validate(fields)
    flops, examples, tokens = counted(context, config)
    assert training_flops(dimensions_of(context.base.model.config), config, examples, tokens) == pytest.approx(
        flops, rel=0.05
    )


@pytest.mark.parametrize("size, both, decoder", [("tiny", 102, 50), ("base", 234, 113), ("small", 896, 433)])
def test_figures_of_a_30_second_window_with_64_tokens(size, both, decoder):
    for scope, gflop in (("both", both), ("decoder", decoder)):
        config = TrialConfig.model_validate(QV | {"scope": scope, "r": 8})
        flops = training_flops(OFFICIAL[f"openai/whisper-{size}"], config, 10, 640)
        assert flops / 10 / 1e9 == pytest.approx(gflop, rel=0.1)


def test_nothing_is_trained_without_examples():
    assert training_flops(OFFICIAL["openai/whisper-tiny"], TrialConfig(method="none"), 0, 0) == 0
    assert torch.get_num_threads() == 1
