"""The output of frozen layers is computed once for all trials that share it, and changes no bit of any result."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from trials import FULL_CONFIG as FULL
from trials import run, seen

from harness.catalog import ROOT
from harness.evaluation.decoding import Decoder
from harness.model import encoder_cache as encoder_states
from harness.model import split_encoder as encoder
from harness.model.base import load_base
from harness.model.encoder_cache import EncoderStateCache, trains_on_cached_states
from harness.records.study_folder import read_transcripts
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator

CPU = torch.device("cpu")
WAYS = {
    "decoder only": {"scope": "decoder"},
    "the encoder's last layer": {"layers_to_transform": (3,)},
    "biases beside the matrices": {"scope": "decoder", "bias": "lora_only"},
    "in bf16": {"scope": "decoder", "precision": "bf16"},
    "a shorter window": {"scope": "decoder", "encoder_window_seconds": 2.8},
}


@pytest.fixture
def kept(context, tmp_path):
    """The trainer context with a cache of its own."""
    return replace(context, encoder_cache=EncoderStateCache(context.speech, tmp_path / "prefixes"))


@pytest.fixture
def bare(context):
    """The trainer context without one."""
    return replace(context, encoder_cache=EncoderStateCache(context.speech, None))


def changed(config, **fields):
    return TrialConfig.model_validate(config.model_dump() | fields)


@pytest.mark.parametrize("fields", WAYS.values(), ids=WAYS.keys())
def test_a_cached_trial_equals_one_without_the_cache(kept, bare, lora, tmp_path, fields):
    config = changed(lora, **fields)
    without, cached = run(bare, config, tmp_path / "without"), run(kept, config, tmp_path / "with")
    assert cached.cost.cached_encoder_layers > 0 == without.cost.cached_encoder_layers
    assert cached.cost.train_flops < 0.9 * without.cost.train_flops
    assert cached.rungs[1].train_loss < 0.8 * cached.rungs[0].train_loss
    if config.precision == "bf16":  # the states are stored in bf16, and rounded once more by the adapters' dropout
        losses = [[rung.loss for rung in result.rungs] for result in (cached, without)]
        assert losses[0] == pytest.approx(losses[1], rel=0.01)
        return
    assert seen(cached) == seen(without)
    texts = [read_transcripts(tmp_path / name / "transcripts.jsonl") for name in ("with", "without")]
    assert texts[0] == texts[1]


def test_frozen_encoder_fine_tuning_takes_it_too(kept, bare, tmp_path):
    config = changed(FULL, method="frozen_encoder")
    without, cached = run(bare, config, tmp_path / "without"), run(kept, config, tmp_path / "with")
    assert cached.cost.cached_encoder_layers == 4 and seen(cached) == seen(without)


def test_states_of_another_utterance_would_be_noticed(kept, bare, lora, tmp_path):
    config = changed(lora, scope="decoder")
    run(kept, config, tmp_path / "filling")
    states = kept.encoder_cache.open(kept.base, config, "fp32").states
    row = kept.speech.rows("train")[0]
    states[row] = states[kept.speech.rows("train")[1]]
    assert seen(run(kept, config, tmp_path / "wrong")) != seen(run(bare, config, tmp_path / "right"))


def test_the_second_trial_and_the_second_process_compute_nothing(kept, lora, tmp_path, monkeypatch):
    config = changed(lora, scope="decoder")
    first = run(kept, config, tmp_path / "first")
    monkeypatch.setattr(encoder_states, "run_first_layers", lambda *_: pytest.fail("computed again"))
    second = run(kept, changed(config, r=4), tmp_path / "second")
    assert first.cost.prefix_seconds > second.cost.prefix_seconds
    opened = replace(
        kept, encoder_cache=EncoderStateCache(kept.speech, kept.encoder_cache.folder)
    )  # as another process finds it
    assert seen(run(opened, config, tmp_path / "third")) == seen(first)


def test_an_interrupted_filling_goes_on(kept, lora, monkeypatch):
    config = changed(lora, scope="decoder")
    rows, accelerator = kept.speech.rows("train"), make_accelerator("fp32", CPU)
    made, done = encoder_states.run_first_layers, []

    def dying(*arguments):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(encoder_states, "FLUSH_EVERY", 16)
    monkeypatch.setattr(encoder_states, "run_first_layers", dying)
    with pytest.raises(KeyboardInterrupt):
        kept.encoder_cache.open(kept.base, config, "fp32").fill(rows, kept.base, 8, accelerator)
    again = EncoderStateCache(kept.speech, kept.encoder_cache.folder).open(kept.base, config, "fp32")
    left = again.fill(rows, kept.base, 8, accelerator)
    assert 0 < left < len(rows) and again.filled[rows].all()
    fresh = EncoderStateCache(kept.speech, kept.encoder_cache.folder.with_name("fresh")).open(kept.base, config, "fp32")
    fresh.fill(rows, kept.base, 32, accelerator)
    assert torch.equal(again.take(rows), fresh.take(rows))


@pytest.mark.parametrize(
    "fields",
    [{"dropout": 0.1}, {"attention_dropout": 0.1}, {"activation_dropout": 0.1}, {"mask_time_prob": 0.05},
     {"mask_feature_prob": 0.05}, {"augmentation": "noisy"}],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_where_chance_acts_before_it_only_evaluation_takes_it(kept, bare, lora, tmp_path, fields):
    config = changed(lora, scope="decoder", **fields)
    assert not trains_on_cached_states(kept.encoder_cache.open(kept.base, config, "fp32"), config)
    cached, without = run(kept, config, tmp_path / "with"), run(bare, config, tmp_path / "without")
    assert cached.cost.cached_encoder_layers == 0 and seen(cached) == seen(without)


@pytest.mark.parametrize("fields", [{}, {"scope": "encoder"}, {"scope": "decoder", "bias": "all"}], ids=str)
def test_what_trains_its_first_layer_has_none(kept, lora, fields):
    assert kept.encoder_cache.open(kept.base, changed(lora, **fields), "fp32") is None
    assert kept.encoder_cache.open(kept.base, FULL, "fp32") is None


def test_other_weights_precisions_windows_and_depths_are_kept_apart(kept, lora):
    folder, config = kept.encoder_cache.folder, changed(lora, scope="decoder")
    configs = [config, changed(lora, layers_to_transform=(2,)), changed(config, encoder_window_seconds=2.0)]
    for each in configs:
        kept.encoder_cache.open(kept.base, each, "fp32")
    kept.encoder_cache.open(kept.base, config, "bf16")
    quantised = load_base("demo", CPU, "int8")
    kept.encoder_cache.open(quantised, config, "fp32")
    other = load_base("demo", CPU)
    with torch.no_grad():
        other.model.model.encoder.layers[0].fc1.weight[0, 0] += 1e-3
    kept.encoder_cache.open(other, config, "fp32")
    assert len(list(folder.glob("*/entry.json"))) == 6
    kept.encoder_cache.open(load_base("demo", CPU), config, "fp32")
    assert len(list(folder.glob("*/entry.json"))) == 6


def test_two_data_sets_share_no_states(kept, lora):
    config, speech = changed(lora, scope="decoder"), kept.speech
    other = EncoderStateCache(replace(speech, entry=speech.entry.with_name("other")), kept.encoder_cache.folder)
    states = kept.encoder_cache.open(kept.base, config, "fp32"), other.open(kept.base, config, "fp32")
    assert states[0].states.filename != states[1].states.filename


def test_a_full_disk_is_no_reason_to_stop(kept, lora, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder_states.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**20))
    result = run(kept, changed(lora, scope="decoder"), tmp_path / "t")
    assert result.state == "complete" and result.cost.cached_encoder_layers == 0
    assert "no room" in capsys.readouterr().out


def test_stored_half_precision_is_half_the_size(kept, lora):
    config = changed(lora, scope="decoder")
    whole, half = (kept.encoder_cache.open(kept.base, config, precision) for precision in ("fp32", "bf16"))
    assert half.states.nbytes * 2 == whole.states.nbytes and half.dtype == torch.bfloat16


def test_leading_and_the_rest_are_the_encoder(context):
    features = torch.from_numpy(np.asarray(context.speech.features[:2], dtype=np.float32))
    whisper = context.base.model
    with torch.inference_mode():
        whole = whisper.model.encoder(features).last_hidden_state
        for depth in (1, 3, 4):
            states = encoder.run_first_layers(whisper.model.encoder, features, depth)
            with encoder.start_at_layer(whisper, depth):
                assert torch.equal(whisper.model.encoder(states).last_hidden_state, whole)
        assert torch.equal(whisper.model.encoder(features).last_hidden_state, whole), "as before"


def test_transcripts_come_out_alike(kept):
    base, rows, accelerator = kept.base, kept.speech.rows("test"), make_accelerator("fp32", CPU)
    found = kept.encoder_cache.open(base, TrialConfig(method="none"), "fp32")
    found.fill(rows, base, 8, accelerator)
    plain = Decoder(base.model, base, kept.speech, kept.decoding, accelerator)
    cached = replace(plain, encoder_states=found)
    assert cached.transcribe(rows) == plain.transcribe(rows)


def test_the_option_switches_it_off_and_the_cache_lists_it(command, cache, small_space, tmp_path):
    small_space.write_text(small_space.read_text().replace("fixed: {", "fixed: {scope: decoder, "))
    found = {}
    for name, options in (("with", []), ("without", ["--without", "encoder_cache"])):
        command(
            "run_sweep.py", "--space", small_space, "--study", name, "--trials", "1", "--cache-dir", cache, *options
        )
        found[name] = json.loads((tmp_path / "results" / name / "trials" / "0" / "result.json").read_text())
    assert [found[name]["cost"]["cached_encoder_layers"] for name in found] == [4, 0]
    assert found["with"]["rungs"][-1]["scores"] == found["without"]["rungs"][-1]["scores"]
    assert found["with"]["rungs"][-1]["loss"] == found["without"]["rungs"][-1]["loss"]
    from harness.cache import entries

    assert "encoder states" in {entry.kind for entry in entries(cache)}


FILL = """
import sys, time
import numpy as np
import torch
from harness.model import encoder_cache
from harness.model.encoder_cache import EncoderStates
from harness.training.context import make_accelerator
from types import SimpleNamespace as Names

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
encoder_cache.run_first_layers = lambda encoder, features, depth: features + 1
filled = np.memmap(f"{folder}/filled", bool, "r+", shape=(60,))
states = np.memmap(f"{folder}/states", np.float32, "r+", shape=(60, 1, 1))
mel = Names(take=lambda rows: torch.tensor(rows, dtype=torch.float32)[:, None, None])
accelerator = Names(process_index=rank, num_processes=2, wait_for_everyone=torch.distributed.barrier,
                    autocast=make_accelerator("fp32", torch.device("cpu")).autocast)
base = Names(model=Names(model=Names(encoder=torch.nn.Identity())), device=torch.device("cpu"))
until = time.monotonic() + 2
while rank == 1 and not filled.any() and time.monotonic() < until:
    time.sleep(0.01)
EncoderStates(mel, 1, states, filled, torch.float32).fill(range(60), base, 8, accelerator)
"""


def test_a_late_process_computes_its_part_all_the_same(tmp_path):
    np.memmap(tmp_path / "filled", bool, "w+", shape=(60,))
    np.memmap(tmp_path / "states", np.float32, "w+", shape=(60, 1, 1))
    environment = os.environ | {"RANK": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if value}
    ranks = [subprocess.Popen([sys.executable, "-c", FILL, str(n), tmp_path], env=environment) for n in (0, 1)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    assert np.memmap(tmp_path / "filled", bool, "r", shape=(60,)).all()
    states = np.memmap(tmp_path / "states", np.float32, "r", shape=(60,))
    assert states.tolist() == [row + 1.0 for row in range(60)]


def test_no_state_is_read_that_was_not_computed(kept, lora):
    rows, accelerator = kept.speech.rows("test"), make_accelerator("fp32", CPU)
    states = kept.encoder_cache.open(kept.base, changed(lora, scope="decoder"), "fp32")
    states.fill(rows[:2], kept.base, 8, accelerator)
    assert states.take(rows[:2]).abs().sum() > 0
    with pytest.raises(RuntimeError, match=rf"encoder states of 1 of 2 utterances are missing: rows \[{rows[2]}\]"):
        states.take(rows[1:3])
    states.copy_to(CPU)
    states.fill(rows[2:3], kept.base, 8, accelerator)
    assert states.resident is None and len(states.take(rows[:3])) == 3, "the copy lacked a row"
