"""One trial: the same again, untouched by the one before, and stored so that it decodes alike."""

from dataclasses import replace

import pytest
import torch
from trials import FULL_CONFIG as FULL
from trials import LONGER as BUDGET
from trials import run, seen

from harness.data.batches import chunks
from harness.evaluation.decoding import Decoder
from harness.model.base import Base
from harness.model.methods import load_trained
from harness.records.study_folder import read_transcripts
from harness.spec.budget import Budget
from harness.spec.messages import Train
from harness.spec.rung_evaluation import RungEvaluation
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator
from harness.training.trial import run_trial

SHORT = Budget(examples=24)


@pytest.fixture
def alone(context, lora, tmp_path):
    return seen(run(context, lora, tmp_path / "alone"))


def test_the_loss_falls(alone):
    assert alone[1]["train_loss"] < 0.8 * alone[0]["train_loss"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(context, lora, alone, tmp_path):
    assert seen(run(context, lora, tmp_path / "again")) == alone
    assert seen(run(context, lora, tmp_path / "other", seed=2)) != alone


@pytest.mark.parametrize("before", ["full", "lora"])
def test_trial_b_after_trial_a_equals_trial_b_alone(context, lora, alone, tmp_path, before):
    first = FULL if before == "full" else lora.model_copy(update={"r": 32, "learning_rate": 1e-2})
    run(context, first, tmp_path / "a")
    assert seen(run(context, lora, tmp_path / "b")) == alone


def test_mixed_precision_holds_after_full_fine_tuning(context, lora, alone, tmp_path):
    mixed = lora.model_copy(update={"precision": "bf16"})
    first = seen(run(context, mixed, tmp_path / "before"))
    run(context, FULL, tmp_path / "full")
    assert first != alone
    assert seen(run(context, mixed, tmp_path / "after")) == first


def test_a_broken_reset_would_be_noticed(context, lora, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(Base, "restore", lambda self: None)
    run(context, FULL, tmp_path / "a")
    broken = seen(run(context, lora, tmp_path / "b"))
    monkeypatch.undo()
    context.base.restore()
    assert broken != alone
    assert seen(run(context, lora, tmp_path / "c")) == alone


def test_a_stop_at_a_rung_leaves_a_pruned_trial_without_weights(context, lora, tmp_path):
    result = run(context, lora, tmp_path / "p", go_on=False)
    assert (result.state, result.reason, len(result.rungs)) == ("pruned", "stopped at rung 0", 1)
    assert result.cost.steps == 12 and result.cost.adapter_bytes is None
    assert not (tmp_path / "p" / "weights").exists()


def test_zero_shot_is_one_evaluation(context, tmp_path):
    result = run(context, TrialConfig(method="none"), tmp_path / "z")
    assert (result.cost.steps, result.cost.trainable_parameters, len(result.rungs)) == (0, 0, 1)
    assert result.rungs[0].train_loss is None


def test_a_diverging_trial_is_pruned_with_its_step_and_harms_no_other(context, lora, alone, tmp_path):
    result = run(context, FULL.model_copy(update={"learning_rate": 1e18, "max_grad_norm": 1e18}), tmp_path / "d")
    assert result.state == "pruned" and result.reason.startswith("diverged at step")
    assert seen(run(context, lora, tmp_path / "b")) == alone


@pytest.mark.parametrize("rate", [1e15, 1e30])
def test_a_last_step_that_destroys_the_weights_is_a_divergence_too(context, tmp_path, rate):
    config = FULL.model_copy(update={"learning_rate": rate, "warmup_ratio": 0.0, "max_grad_norm": 1e18})
    result = run(context, config, tmp_path / "d", budget=Budget(examples=8))
    assert (result.state, result.reason, result.rungs) == ("pruned", "diverged at step 1", ())


def test_a_diverged_full_trial_leaves_no_gradients_to_the_next(context, tmp_path):
    first = seen(run(context, FULL, tmp_path / "first", budget=SHORT))
    diverging = FULL.model_copy(update={"learning_rate": 1e18, "max_grad_norm": 1e18})
    assert run(context, diverging, tmp_path / "d", budget=SHORT).reason.startswith("diverged")
    assert all(parameter.grad is None for parameter in context.base.model.parameters())
    assert seen(run(context, FULL, tmp_path / "again", budget=SHORT)) == first


@pytest.mark.parametrize("method", ["lora", "full"])
def test_stored_weights_decode_as_the_trial_did(context, lora, tmp_path, method):
    config = lora if method == "lora" else FULL
    run(context, config, tmp_path / "t")
    before = {name: value.clone() for name, value in context.base.model.state_dict().items()}
    load_trained(context.base, config, tmp_path / "t" / "weights")
    assert any(not torch.equal(before[n], v) for n, v in context.base.model.state_dict().items())
    accelerator = make_accelerator("fp32", context.base.device)
    rows = context.speech.rows("validation")
    merged = Decoder(context.base.model, context.base, context.speech, context.decoding, accelerator).transcribe(rows)
    context.base.restore()
    assert merged == read_transcripts(tmp_path / "t" / "transcripts.jsonl")
    assert all(torch.equal(before[n], v) for n, v in context.base.model.state_dict().items())


def test_an_adapter_s_folder_is_small_and_names_no_path(context, lora, tmp_path):
    result = run(context, lora, tmp_path / "t")
    files = sorted(path.name for path in (tmp_path / "t" / "weights").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert result.cost.adapter_bytes < 500_000
    assert str(tmp_path) not in (tmp_path / "t" / "weights" / "adapter_config.json").read_text()


def test_merged_equals_unmerged_to_rounding(context, lora):
    from harness.model.methods import attach, detach

    torch.manual_seed(3)
    model = attach(context.base, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    mel = torch.from_numpy(context.speech.features[:4].astype("float32"))
    start = torch.full((4, 1), context.base.model.config.decoder_start_token_id)
    with torch.inference_mode():
        unmerged = model.eval()(input_features=mel, decoder_input_ids=start).logits
        model.merge_adapter()
        merged = model(input_features=mel, decoder_input_ids=start).logits
        model.unmerge_adapter()
    detach(context.base, model)
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-4)


def test_chunks_keep_every_item():
    assert [list(c) for c in chunks([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]


def test_an_unforced_language_is_left_to_the_model(context, monkeypatch):
    from harness.training.context import decoding_settings, make_accelerator

    languages = []
    whisper = context.base.model
    plain = whisper.generate
    monkeypatch.setattr(whisper, "generate", lambda *a, **k: languages.append(k["language"]) or plain(*a, **k))
    accelerator, rows = make_accelerator("fp32", context.base.device), context.speech.rows("test")[:2]
    for forced in (True, False):
        decoding = decoding_settings(context, TrialConfig(method="none", forced_language=forced))
        assert len(Decoder(whisper, context.base, context.speech, decoding, accelerator).transcribe(rows)) == 2
    assert languages == [["en", "en"], None]
    assert decoding.describe()["strategy"] == "greedy, language detected"


def test_only_what_the_limit_ended_is_cut(context):
    whisper, rows = context.base.model, context.speech.rows("test")
    accelerator = make_accelerator("fp32", context.base.device)
    whole = Decoder(whisper, context.base, context.speech, context.decoding, accelerator).transcribe(rows)
    short = replace(context.decoding, max_new_tokens=5)
    begun = Decoder(whisper, context.base, context.speech, short, accelerator).transcribe(rows)
    assert not any(found.cut for found in whole)
    assert any(found.cut for found in begun)
    changed = [one.hypothesis != other.hypothesis for one, other in zip(begun, whole, strict=True)]
    assert any(changed) and all(found.cut for found, new in zip(begun, changed, strict=True) if new)


def yielded(context, config, folder, decide=lambda event: True, **judging):
    """All that a trial yields, and its result."""
    folder.mkdir()
    order = Train(config=config, budget=BUDGET, seed=1, attempt=str(folder), judging=RungEvaluation(**judging))
    trial, events, answer = run_trial(context, order), [], None
    while True:
        try:
            events.append(trial.send(answer))
        except StopIteration as end:
            return events, end.value.result
        answer = decide(events[-1])


def test_utterances_are_evaluated_in_chunks_of_one_order_and_scored_as_a_whole(context, lora, alone, tmp_path):
    events, result = yielded(context, lora, tmp_path / "t", chunk=5, seed=3)
    assert [len(answer.errors) for answer in events] == [5, 10, 12] * 2
    assert [r["scores"]["wer"] for r in alone] == [r.scores.wer for r in result.rungs]
    first, whole = events[3].errors, events[5].errors
    assert whole[:5] == first and sum(whole) / result.rungs[1].scores.reference_words == result.rungs[1].scores.wer
    ids = [t.id for t in read_transcripts(tmp_path / "t" / "transcripts.jsonl")]
    assert ids == [context.speech.utterances[row].id for row in context.speech.rows("validation")]


def test_an_evaluation_that_is_broken_off_ends_the_trial(context, lora, tmp_path):
    events, result = yielded(context, lora, tmp_path / "t", lambda event: len(event.errors) < 8, chunk=4)
    assert (result.state, result.reason) == ("pruned", "stopped after 8 utterances of rung 0")
    assert len(events) == 2 and result.rungs[0].scores.utterances == 8


def test_rungs_before_the_last_are_judged_on_a_subset_or_on_the_loss(context, lora, alone, tmp_path):
    _, part = yielded(context, lora, tmp_path / "part", rung_utterances=4)
    assert [rung.scores.utterances for rung in part.rungs] == [4, 12]
    assert part.rungs[1].scores.model_dump() == alone[1]["scores"]
    events, loss = yielded(context, lora, tmp_path / "loss", judge="loss")
    assert loss.rungs[0].scores is None and events[0].errors == ()
    assert [rung.loss for rung in loss.rungs] == [rung["loss"] for rung in alone]
    assert loss.rungs[1].scores.model_dump() == alone[1]["scores"]
