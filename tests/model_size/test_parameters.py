"""The formula for parameter counts against published figures and against PEFT itself."""

import random

import pytest

from harness.errors import UserError
from harness.model_size.parameters import OFFICIAL, Dimensions, base_parameters, count, dimensions
from harness.spec.trial import TrialConfig

ALL = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def lora(r: int, *modules: str, **more) -> TrialConfig:
    return TrialConfig(method="lora", r=r, lora_alpha=2 * r, lora_dropout=0.0, target_modules=modules, **more)


@pytest.mark.parametrize(
    "model, config, trainable, total",
    [
        ("openai/whisper-small", lora(16, "q_proj", "v_proj"), 1_769_472, None),
        ("openai/whisper-small", lora(16, "q_proj", "v_proj", bias="lora_only"), 1_824_768, None),
        ("openai/whisper-small", lora(16, "q_proj", "v_proj", use_dora=True), 1_824_768, None),
        ("openai/whisper-small", lora(16, *ALL[:4]), 3_538_944, None),
        ("openai/whisper-small", lora(16, *ALL), 6_488_064, None),
        # What PEFT's guide prints for its int8 recipe.
        ("openai/whisper-large-v2", lora(32, "q_proj", "v_proj"), 15_728_640, 1_559_033_600),
        # The model card of whisper-tiny: 37.8 M parameters.
        ("openai/whisper-tiny", TrialConfig(method="none"), 0, 37_760_640),
    ],
)
def test_published_counts(model, config, trainable, total):
    counted = count(dimensions(model), config)
    assert counted[0] == trainable
    assert total is None or counted[1] == total


def test_200_random_configurations_count_as_peft_counts_them():
    import torch
    from peft import get_peft_model
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from harness.model.methods import lora_config

    rng = random.Random(0)
    for _ in range(200):
        heads = rng.randint(1, 3)
        dims = Dimensions(
            d_model=16 * heads,
            encoder_layers=rng.randint(1, 3),
            decoder_layers=rng.randint(1, 3),
            encoder_ffn_dim=rng.choice([32, 48]),
            decoder_ffn_dim=rng.choice([32, 64]),
            vocab_size=rng.randint(60, 90),
            num_mel_bins=rng.choice([8, 16]),
            max_source_positions=rng.randint(10, 30),
            max_target_positions=rng.randint(10, 30),
        )
        modules = rng.sample(ALL, rng.randint(1, 6))
        config = lora(
            rng.randint(1, 16),
            *modules,
            scope=rng.choice([None, "both", "encoder", "decoder"]),
            layers_to_transform=rng.choice([None, (0,)]),
            bias=rng.choice([None, "none", "all", "lora_only"]),
            use_dora=rng.random() < 0.3,
        )
        with torch.device("meta"):
            sizes = dict(vars(dims), encoder_attention_heads=heads, decoder_attention_heads=heads)
            special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
            whisper = WhisperForConditionalGeneration(WhisperConfig(**sizes, **special))
            full = sum(p.numel() for p in whisper.parameters())
            positions = whisper.model.encoder.embed_positions.weight.numel()
            assert base_parameters(dims) == (full, full - positions)
            decoder = sum(p.numel() for p in whisper.model.decoder.parameters())
            assert count(dims, TrialConfig(method="frozen_encoder")) == (decoder, full)
            model = get_peft_model(whisper, lora_config(config))
        assert count(dims, config) == model.get_nb_trainable_parameters()


def test_the_demo_model_is_counted_from_its_own_configuration():
    assert count(dimensions("demo"), TrialConfig(method="full")) == (2_210_048, 2_229_248)


def test_an_unknown_model_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'openai/whisper-small'"):
        dimensions("openai/whisper-smal")


def test_all_official_sizes_are_whispers():
    for dims in OFFICIAL.values():
        assert dims.d_model % 64 == 0
