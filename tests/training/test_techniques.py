"""What makes trials fast changes no result: each technique left out, or taken on, against the rest."""

import json
from dataclasses import replace

import pytest
import torch
from trials import run, seen

from harness.catalog import ROOT
from harness.data.batches import Batch
from harness.evaluation import decoding as evaluate
from harness.evaluation.decoding import Decoder, halve_on_out_of_memory
from harness.model import encoder_cache as encoder_states
from harness.model.base import load_base
from harness.model.encoder_cache import EncoderStateCache
from harness.model_size.parameters import OFFICIAL
from harness.records.study_folder import read_transcripts
from harness.spec.budget import Budget
from harness.spec.techniques import STANDARD
from harness.spec.trial import TrialConfig
from harness.training.context import decoding_batch_size, decoding_bytes, make_accelerator, make_context

CPU = torch.device("cpu")


def changed(config, **fields):
    return TrialConfig.model_validate(config.model_dump() | fields)


def hypotheses(folder):
    return sorted(
        (transcript.id, transcript.hypothesis) for transcript in read_transcripts(folder / "transcripts.jsonl")
    )


@pytest.fixture(scope="module")
def usual(context, tmp_path_factory):
    """A trial with all techniques, and its transcripts."""
    folder = tmp_path_factory.mktemp("usual")
    config = TrialConfig(
        method="lora", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=("q_proj", "v_proj"), learning_rate=3e-3,
        per_device_train_batch_size=8,
    )  # fmt: skip
    return config, run(context, config, folder), hypotheses(folder)


@pytest.mark.parametrize("technique", ["sdpa", "fused", "merging", "sorting"])
def test_a_trial_without_a_technique_is_the_same_trial(context, usual, tmp_path, technique):
    config, found, texts = usual
    techniques = tuple(name for name in STANDARD if name != technique)
    base = load_base("demo", CPU, sdpa="sdpa" in techniques)
    assert base.model.config._attn_implementation == ("eager" if technique == "sdpa" else "sdpa")
    bare = make_context(base, context.speech, context.task, techniques=techniques)
    without = run(bare, config, tmp_path)
    assert [rung.loss for rung in without.rungs] == pytest.approx([rung.loss for rung in found.rungs], rel=1e-4)
    assert hypotheses(tmp_path) == texts


def test_compiled_layers_train_as_written_ones_do(context, usual, tmp_path):
    config, found, texts = usual
    techniques = (*STANDARD, "compile")
    made = make_context(context.base, context.speech, context.task, techniques=techniques)
    assert made.decoding.static_cache
    pieces = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = run(made, config, tmp_path)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > pieces, "something was compiled"
    assert [rung.loss for rung in compiled.rungs] == pytest.approx([rung.loss for rung in found.rungs], rel=1e-4)
    assert [rung.train_loss for rung in compiled.rungs] == pytest.approx(
        [rung.train_loss for rung in found.rungs], rel=1e-4
    )
    assert hypotheses(tmp_path) == texts
    assert all(module._compiled_call_impl is None for module in context.base.model.modules()), "the base is as it was"


def test_length_bucketing_changes_the_order_of_examples_and_nothing_else(context, lora, tmp_path):
    """Without a step's effect on the next, an epoch's loss is that of all its examples, whatever else is padded."""
    still = changed(lora, learning_rate=1e-12, lora_dropout=0.0)
    epoch = Budget(examples=48)
    apart = run(context, still, tmp_path / "apart", budget=epoch)
    bucketed = run(context, changed(still, group_by_length=True), tmp_path / "bucketed", budget=epoch)
    assert bucketed.rungs[0].train_loss == pytest.approx(apart.rungs[0].train_loss, rel=1e-6)
    assert bucketed.rungs[0].train_loss != apart.rungs[0].train_loss, "the order is another"
    assert bucketed.rungs[0].loss == pytest.approx(apart.rungs[0].loss, rel=1e-6)
    assert hypotheses(tmp_path / "apart") == hypotheses(tmp_path / "bucketed")


def test_states_that_stay_on_the_device_are_those_of_the_file(context, lora, tmp_path):
    kept = replace(context, encoder_cache=EncoderStateCache(context.speech, tmp_path / "prefixes"))
    config = changed(lora, scope="decoder")
    from_file = run(kept, config, tmp_path / "file")
    found = kept.encoder_cache.open(kept.base, config, "fp32")
    rows = kept.speech.rows("validation")
    assert kept.encoder_cache.copy_to_gpu(found, CPU) == 0, "a CPU has the file in its memory"
    assert kept.encoder_cache.copy_to_gpu(found, CPU, limit=10) == 0 and found.resident is None, "no room"
    assert kept.encoder_cache.copy_to_gpu(found, CPU, limit=10**9) == found.states.nbytes
    assert torch.equal(found.take(rows), torch.from_numpy(found.states[rows]))
    assert seen(run(kept, config, tmp_path / "resident")) == seen(from_file)
    more = kept.speech.rows("test")
    found.fill(rows, kept.base, 8, make_accelerator("fp32", CPU))
    assert found.resident is not None
    other = EncoderStateCache(kept.speech, tmp_path / "prefixes").open(kept.base, config, "fp32")
    other.fill(more, kept.base, 8, make_accelerator("fp32", CPU))
    assert found.fill(more, kept.base, 8, make_accelerator("fp32", CPU)) == 0, "another process has filled them"
    assert found.resident is None, "but the copy lacks them"


def test_memory_that_runs_out_is_taken_from_the_resident_states_first(context, lora, tmp_path, monkeypatch):
    kept = replace(context, encoder_cache=EncoderStateCache(context.speech, tmp_path / "prefixes"))
    copy_to_gpu = encoder_states.EncoderStateCache.copy_to_gpu
    monkeypatch.setattr(
        encoder_states.EncoderStateCache,
        "copy_to_gpu",
        lambda self, states, device: copy_to_gpu(self, states, CPU, 10**9),
    )
    move = Batch.to

    def to(batch, device):
        if any(one.resident is not None for one in kept.encoder_cache.opened.values()):
            raise torch.OutOfMemoryError("the states take all of it")
        return move(batch, device)

    monkeypatch.setattr(Batch, "to", to)
    result = run(kept, changed(lora, scope="decoder"), tmp_path / "trial")
    assert (result.state, result.cost.resident_bytes) == ("complete", 0)
    assert result.cost.per_device_train_batch_size == 8, "the micro-batch was not to blame"
    assert not kept.encoder_cache.use_gpu_memory


def test_a_batch_that_memory_does_not_hold_is_decoded_in_halves(context, monkeypatch):
    rows, accelerator = context.speech.rows("test"), make_accelerator("fp32", CPU)
    decoder = Decoder(context.base.model, context.base, context.speech, context.decoding, accelerator)
    whole = decoder.transcribe(rows)
    sizes, encode = [], evaluate.encode

    def narrow(model, inputs, *rest):
        if len(inputs) > 4:
            raise torch.OutOfMemoryError("too many clips")
        sizes.append(len(inputs))
        return encode(model, inputs, *rest)

    monkeypatch.setattr(evaluate, "encode", narrow)
    assert decoder.transcribe(rows) == whole
    assert sizes == [3, 3, 3, 3]


def test_a_clip_alone_that_memory_does_not_hold_is_an_error():
    def decode_batch(batch):
        raise torch.OutOfMemoryError(f"{len(batch)} clips")

    with pytest.raises(torch.OutOfMemoryError, match="1 clips"):
        halve_on_out_of_memory(decode_batch, [1, 2, 3])


def test_a_gpu_decodes_as_many_clips_as_half_of_its_memory_should_hold(monkeypatch):
    small, cuda = OFFICIAL["openai/whisper-small"], torch.device("cuda")
    assert decoding_batch_size(small, 128, CPU) == 32
    found = {}
    for gigabytes in (8, 16, 24, 80):
        device = type("Properties", (), {"total_memory": gigabytes * 2**30})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, device=device: device)
        found[gigabytes] = decoding_batch_size(small, 128, cuda)
        assert found[gigabytes] * decoding_bytes(small, 128) <= gigabytes * 2**29 or found[gigabytes] == 128
    assert found == {8: 16, 16: 32, 24: 32, 80: 128}


def test_techniques_are_left_out_from_the_command_line(command, cache, small_space, tmp_path):
    command(
        "run_sweep.py", "--space", small_space, "--study", "s", "--trials", "1", "--cache-dir", cache, "--without",
        "sdpa", "merging", "fused", "sorting", "resident",
    )  # fmt: skip
    record = json.loads((tmp_path / "results" / "s" / "trials" / "0" / "result.json").read_text())
    assert record["state"] == "complete"
    assert record["environment"]["techniques"] == ["encoder_cache"]


@pytest.mark.parametrize("name", [*STANDARD, "--compile", "--without", "--pack"])
def test_each_has_a_name_in_the_documentation(name):
    assert f"`{name}" in (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
