"""Every way to fine-tune keeps the same promises: the loss falls, the base comes back bit for bit, weights decode alike."""

import pytest
import torch
from trials import BUDGET, FULL, LORA, QUANTISED, VARIANTS, run, same, seen, state

from harness.evaluation.decoding import Decoder
from harness.model.methods import attach, detach, load_trained
from harness.model.trial_settings import apply_trial_settings
from harness.records.study_folder import read_transcripts
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_falls_and_the_base_comes_back(context, tmp_path, name):
    config, before = TrialConfig.model_validate(VARIANTS[name]), state(context.base)
    result = run(context, config, tmp_path / "a", budget=BUDGET)
    assert result.state == "complete"
    # Ordered by length, the stretches between rungs are of different difficulty; validation is always the same.
    measure = "loss" if config.group_by_length else "train_loss"
    assert getattr(result.rungs[1], measure) < 0.8 * getattr(result.rungs[0], measure)
    assert same(before, state(context.base)), "something of the trial stayed on the base"
    assert context.base.model.get_submodule("model.decoder.layers.0.self_attn.q_proj").__class__ is torch.nn.Linear
    assert seen(run(context, config, tmp_path / "b", budget=BUDGET)) == seen(result), "not the same again"


@pytest.mark.parametrize(
    "name", ["lora", "dora", "pissa", "olora", "bias lora_only", "bias all", "rslora", "frozen encoder"]
)
def test_merged_weights_decode_as_the_trial_did(context, tmp_path, name):
    config = TrialConfig.model_validate(VARIANTS[name])
    run(context, config, tmp_path / "t", budget=BUDGET)
    model = load_trained(context.base, config, tmp_path / "t" / "weights")
    rows = context.speech.rows("validation")
    accelerator = make_accelerator("fp32", context.base.device)
    decoded = Decoder(model, context.base, context.speech, context.decoding, accelerator).transcribe(rows)
    detach(context.base, model)
    assert decoded == read_transcripts(tmp_path / "t" / "transcripts.jsonl")


@pytest.mark.parametrize("name", ["lora", "bias all", "full", "frozen encoder", "decoder", "encoder", "last layers"])
def test_only_what_the_method_trains_has_a_gradient(context, name):
    config = TrialConfig.model_validate(VARIANTS[name])
    model = attach(context.base, config)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    detach(context.base, model)
    encoder, decoder = ({n for n in trained if f".{half}." in n} for half in ("encoder", "decoder"))
    assert bool(encoder) == (name not in ("decoder", "frozen encoder")) and bool(decoder) == (name != "encoder")
    assert not any("embed_positions" in n for n in encoder)
    if name == "last layers":
        assert not any(f".layers.{index}." in n for n in trained for index in (0, 1))
    if name in ("lora", "decoder", "encoder", "last layers"):
        assert all("lora_" in n for n in trained)
    if name == "bias all":
        assert all("lora_" in n or n.endswith("bias") for n in trained)


@pytest.mark.parametrize(
    "name", ["augmented", "spec-augmented", "masking", "by length", "dropouts", "bf16", "cosine, smoothing, decay"]
)
def test_a_setting_really_changes_training(context, tmp_path, name):
    plain = run(context, TrialConfig.model_validate(LORA), tmp_path / "plain", budget=BUDGET)
    changed = run(context, TrialConfig.model_validate(VARIANTS[name]), tmp_path / "changed", budget=BUDGET)
    assert changed.rungs[1].train_loss != plain.rungs[1].train_loss


def test_a_shorter_window_really_shortens_what_the_encoder_sees(context):
    config = TrialConfig.model_validate(VARIANTS["window"])
    whole = context.base.model.model.encoder.embed_positions.weight
    with apply_trial_settings(context.base, config):
        cut = context.base.model.model.encoder.embed_positions.weight
        assert len(cut) == 140 and torch.equal(cut, whole[:140])
        mel = torch.from_numpy(context.speech.features[:1, :, :280].astype("float32"))
        assert context.base.model.model.encoder(mel).last_hidden_state.shape[1] == 140
    assert context.base.model.model.encoder.embed_positions.weight is whole


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_base_trains_adapters_and_is_decoded_unmerged(context, tmp_path, name):
    config = TrialConfig.model_validate(QUANTISED[name])
    quantised = context.with_base_weights(config.base_weights)
    kinds = {type(module).__name__ for module in quantised.base.model.modules()}
    assert ("Linear8bitLt" if name == "int8" else "Linear4bit") in kinds
    before = {n: v.clone() for n, v in quantised.base.model.state_dict().items() if isinstance(v, torch.Tensor)}
    result = run(quantised, config, tmp_path / "a", budget=BUDGET)
    assert result.rungs[1].train_loss < 0.8 * result.rungs[0].train_loss
    after = quantised.base.model.state_dict()
    assert all(torch.equal(value, after[n]) for n, value in before.items())
    model = load_trained(quantised.base, config, tmp_path / "a" / "weights")
    assert model is not quantised.base.model, "a quantised base is not merged into"
    detach(quantised.base, model)
    assert (
        result.cost.trainable_parameters == run(context, TrialConfig(**LORA), tmp_path / "b").cost.trainable_parameters
    )


def test_8_bit_adam_says_how_much_of_it_is(context, tmp_path):
    full = run(context, TrialConfig.model_validate(VARIANTS["8-bit adam"]), tmp_path / "a", budget=BUDGET)
    large = {name: p.numel() for name, p in context.base.model.named_parameters() if p.numel() >= 4096}
    del large["model.encoder.embed_positions.weight"]  # fixed sinusoids
    embeddings = sum(size for name, size in large.items() if "embed" in name)
    assert full.cost.optimizer_8bit_share == pytest.approx(1 - embeddings / sum(large.values()))
    plain = run(context, TrialConfig(**FULL), tmp_path / "b", budget=BUDGET)
    assert plain.cost.optimizer_8bit_share == 0.0


def test_memory_that_runs_out_is_an_outcome_and_the_next_trial_is_unharmed(context, tmp_path, monkeypatch):
    config = TrialConfig.model_validate(LORA)
    alone = seen(run(context, config, tmp_path / "alone", budget=BUDGET))
    fail_above(monkeypatch, 0)
    result = run(context, config, tmp_path / "oom", budget=BUDGET)
    monkeypatch.undo()
    assert (result.state, result.reason, result.cost) == ("pruned", "out_of_memory", None)
    assert seen(run(context, config, tmp_path / "after", budget=BUDGET)) == alone


def test_auto_micro_batch_halves_and_keeps_the_effective_batch(context, tmp_path, monkeypatch):
    config = TrialConfig.model_validate(LORA | {"auto_micro_batch": True, "lora_dropout": 0.0})
    whole = run(context, config, tmp_path / "whole", budget=BUDGET)
    fail_above(monkeypatch, 2)
    halved = run(context, config, tmp_path / "halved", budget=BUDGET)
    assert (halved.cost.per_device_train_batch_size, halved.cost.gradient_accumulation_steps) == (2, 4)
    assert halved.cost.steps == whole.cost.steps
    assert halved.rungs[1].train_loss == pytest.approx(whole.rungs[1].train_loss, rel=0.02)


def test_an_odd_micro_batch_is_not_halved_into_another_effective_batch(context, tmp_path, monkeypatch):
    config = TrialConfig.model_validate(LORA | {"auto_micro_batch": True, "per_device_train_batch_size": 5})
    fail_above(monkeypatch, 2)
    result = run(context, config, tmp_path / "odd", budget=BUDGET)
    assert (result.state, result.reason) == ("pruned", "out_of_memory")


def fail_above(monkeypatch, size):
    """Let the forward pass of more than `size` training examples run out of memory."""
    import harness.training.loop as train

    real = train.token_loss

    def limited(model, batch, *more):
        if model.training and len(batch.labels) > size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch, *more)

    monkeypatch.setattr(train, "token_loss", limited)


@pytest.mark.parametrize(
    "fields, said",
    [
        (FULL | {"base_weights": "int8"}, "cannot train base weights in int8"),
        (LORA | {"base_weights": "nf4", "init_lora_weights": "pissa"}, "changes the base"),
        (LORA | {"use_dora": True, "init_lora_weights": "olora"}, "DoRA"),
        (LORA | {"base_weights": "int8", "bias": "all"}, "bias all"),
        ({"method": "none", "encoder_window_seconds": 10}, "method none cannot change the encoder window"),
        (LORA | {"lora_alpha": 16}, "not both"),
        (FULL | {"use_dora": True}, "has no use_dora"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(fields, said):
    with pytest.raises(ValueError, match=said):
        TrialConfig.model_validate(fields)


@pytest.mark.parametrize("fields", [{"precision": "fp16"}, {"precision": "tf32"}, {"optim": "paged_adamw_8bit"}])
def test_what_needs_a_gpu_is_refused_on_a_cpu_only(fields):
    config = TrialConfig.model_validate(LORA | fields)
    assert "needs a CUDA GPU" in config.refused_on("cpu")
    assert config.refused_on("cuda") is None
