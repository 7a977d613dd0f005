"""An interrupted trial resumes from its last rung, with the same result bit for bit."""

import json
import shutil

import pytest
import torch
from trials import FULL, LORA, seen

from harness.model_size.parameters import count, dimensions_of
from harness.spec.budget import Budget
from harness.spec.messages import Train
from harness.spec.trial import TrialConfig
from harness.training import checkpoint
from harness.training.trial import run_trial

BUDGET = Budget(examples=96, rungs=(0.25, 0.5, 1.0))
KINDS = {
    "dropouts, cosine": LORA | {"dropout": 0.05, "activation_dropout": 0.05, "lr_scheduler_type": "cosine"},
    "masking, by length": LORA | {"mask_time_prob": 0.05, "mask_feature_prob": 0.05, "group_by_length": True},
    "augmented": LORA | {"augmentation": "light"},
    "pissa": LORA | {"init_lora_weights": "pissa", "learning_rate": 1e-3},
    "dora, 8-bit adam": LORA | {"use_dora": True, "optim": "adamw_8bit", "target_modules": ("fc1", "fc2")},
    "full": FULL | {"warmup_ratio": 0.2},
    "frozen encoder, adafactor": FULL | {"method": "frozen_encoder", "optim": "adafactor"},
    "bf16": LORA | {"precision": "bf16"},
}


def conduct(context, config, folder, resume=None, stop_after=None, budget=BUDGET):
    """Run a trial as a supervisor does; with `stop_after` leave it, as a kill would, when that rung was reported."""
    folder.mkdir()
    order = Train(config=config, budget=budget, seed=1, attempt=str(folder), resume=resume and str(resume))
    trial, decision, reported = run_trial(context, order), None, []
    while True:
        try:
            reported.append(trial.send(decision).rung)
        except StopIteration as end:
            return reported, end.value.result
        if stop_after == reported[-1].index:
            shutil.copytree(folder / "checkpoint", folder / "kept")  # closing tidies up, a kill would not
            trial.close()
            return reported, None
        decision = True


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_goes_on_from_its_last_rung_as_if_nothing_had_been(context, tmp_path, kind):
    config = TrialConfig.model_validate(KINDS[kind])
    _, whole = conduct(context, config, tmp_path / "whole")
    first, _ = conduct(context, config, tmp_path / "first", stop_after=1)
    reported, resumed = conduct(context, config, tmp_path / "second", resume=tmp_path / "first" / "kept")
    assert seen(resumed) == seen(whole)
    assert [rung.index for rung in reported] == [1, 2] and reported[0] == first[1], "the last rung is reported again"
    assert (tmp_path / "second" / "transcripts.jsonl").read_bytes() == (
        tmp_path / "whole" / "transcripts.jsonl"
    ).read_bytes()
    one, other = (next((tmp_path / n / "weights").glob("*.safetensors")).read_bytes() for n in ("whole", "second"))
    assert one == other
    assert resumed.cost.steps == whole.cost.steps and resumed.cost.train_seconds > first[1].train_seconds
    assert not (tmp_path / "second" / "checkpoint").exists()


def test_a_resume_that_forgot_the_random_generators_would_be_noticed(context, tmp_path, monkeypatch):
    config = TrialConfig.model_validate(KINDS["dropouts, cosine"])
    _, whole = conduct(context, config, tmp_path / "whole")
    conduct(context, config, tmp_path / "first", stop_after=1)
    monkeypatch.setattr(checkpoint, "restore_random", lambda checkpoint: None)
    _, resumed = conduct(context, config, tmp_path / "second", resume=tmp_path / "first" / "kept")
    assert seen(resumed)[:2] == seen(whole)[:2] and seen(resumed)[2] != seen(whole)[2]


def test_an_adapter_s_checkpoint_holds_no_base(context, lora, tmp_path):
    conduct(context, lora, tmp_path / "t", stop_after=0)
    files = {path.name: path.stat().st_size for path in (tmp_path / "t" / "kept").iterdir()}
    assert set(files) == {"rungs.json", "state-1.0.pt", "transcripts-1.jsonl", "weights-1.safetensors"}
    trainable, total = count(dimensions_of(context.base.model.config), lora)
    assert 4 * trainable < files["weights-1.safetensors"] < 4.5 * trainable < 0.1 * 4 * total
    torch.load(tmp_path / "t" / "kept" / "state-1.0.pt", weights_only=True)


def test_a_checkpoint_that_was_cut_while_written_is_the_one_before(context, lora, tmp_path, monkeypatch):
    _, whole = conduct(context, lora, tmp_path / "whole")

    def killed(path, value):
        if path.name == "rungs.json" and len(value) == 2:
            raise KeyboardInterrupt
        write(path, value)

    write = checkpoint.write_json
    monkeypatch.setattr(checkpoint, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        conduct(context, lora, tmp_path / "first")
    monkeypatch.undo()
    left = tmp_path / "first" / "checkpoint"
    assert len(json.loads((left / "rungs.json").read_text())) == 1 and (left / "state-2.0.pt").exists()
    reported, resumed = conduct(context, lora, tmp_path / "second", resume=left)
    assert [rung.index for rung in reported] == [0, 1, 2] and seen(resumed) == seen(whole)


def test_a_trial_pruned_on_its_second_thought_keeps_the_transcripts_of_its_rung(context, lora, tmp_path):
    conduct(context, lora, tmp_path / "first", stop_after=0)
    folder = tmp_path / "second"
    folder.mkdir()
    order = Train(config=lora, budget=BUDGET, seed=1, attempt=str(folder), resume=str(tmp_path / "first" / "kept"))
    again = run_trial(context, order)
    next(again)
    with pytest.raises(StopIteration) as end:
        again.send(False)
    assert (end.value.value.result.state, len(end.value.value.result.rungs)) == ("pruned", 1)
    assert (folder / "transcripts.jsonl").stat().st_size > 0


def test_a_checkpoint_of_another_number_of_processes_is_left_alone(context, lora, tmp_path):
    conduct(context, lora, tmp_path / "first", stop_after=0)
    shutil.copy(tmp_path / "first" / "kept" / "state-1.0.pt", tmp_path / "first" / "kept" / "state-1.1.pt")
    reported, _ = conduct(context, lora, tmp_path / "second", resume=tmp_path / "first" / "kept")
    assert [rung.step for rung in reported] == [3, 6, 12]


def test_a_checkpoint_of_another_version_is_left_alone(context, lora, tmp_path, monkeypatch):
    conduct(context, lora, tmp_path / "first", stop_after=0)
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    reported, _ = conduct(context, lora, tmp_path / "second", resume=tmp_path / "first" / "kept")
    assert [rung.step for rung in reported] == [3, 6, 12]
