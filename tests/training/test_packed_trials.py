"""Packed trials are the trials that they are alone."""

import pytest
import torch
from packing import orders, together
from trials import run

from harness.model.batched_lora import AdapterGroup, PackedModel, make_view
from harness.records.study_folder import read_transcripts
from harness.spec.budget import Budget
from harness.spec.packing import pack_key, unpackable_reason
from harness.spec.trial import TrialConfig
from harness.training.packed_trials import PackedTraining

BUDGET = Budget(examples=96, rungs=(0.25, 1.0))  # 24 steps of 4
SHARED = {"method": "lora", "per_device_train_batch_size": 4, "warmup_ratio": 0.1}
CONFIGS = [
    TrialConfig.model_validate(SHARED | own)
    for own in (
        {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ("q_proj", "v_proj"), "learning_rate": 3e-3},
        {"r": 4, "lora_alpha": 32, "lora_dropout": 0.3, "target_modules": ("v_proj", "fc1"), "learning_rate": 2e-3,
         "weight_decay": 0.01, "scope": "both"},
        {"r": 16, "alpha_over_r": 1, "lora_dropout": 0.2, "target_modules": ("q_proj", "k_proj", "out_proj", "fc2"),
         "learning_rate": 4e-3, "use_rslora": True, "lr_scheduler_type": "cosine", "max_grad_norm": 0.3},
    )
]  # fmt: skip
CLOSE = 1e-5  # sums in another order; a mistake shows in the second digit


@pytest.fixture(scope="module")
def alone(context, tmp_path_factory):
    """What a configuration comes to alone, and its transcripts; each is trained once."""
    results = {}

    def alone(config, seed, budget=BUDGET):
        key = config.model_dump_json(), seed, budget
        if key not in results:
            folder = tmp_path_factory.mktemp("alone") / "t"
            results[key] = (
                run(context, config, folder, budget=budget, seed=seed),
                read_transcripts(folder / "transcripts.jsonl"),
            )
        return results[key]

    return alone


def losses(result, rungs=None):
    return [value for rung in result.rungs[:rungs] for value in (rung.train_loss, rung.loss)]


def same(result, expected, rungs=None):
    return losses(result, rungs) == pytest.approx(losses(expected, rungs), rel=CLOSE)


def test_three_that_differ_in_everything_are_what_they_are_alone_and_one_is_pruned_and_replaced(
    context, alone, tmp_path
):
    given = orders([*CONFIGS, CONFIGS[0]], tmp_path, BUDGET)
    before = {name: value.clone() for name, value in context.base.model.state_dict().items()}
    found = together(context, given, at_once=3, decide=lambda lane, rung: lane != 2)
    assert (found[2].state, found[2].reason) == ("pruned", "stopped at rung 0")
    assert same(found[2], alone(CONFIGS[1], 2)[0], rungs=1)
    for lane, config in ((1, CONFIGS[0]), (3, CONFIGS[2]), (4, CONFIGS[0])):
        expected, transcripts = alone(config, lane)
        assert expected.rungs[1].train_loss < 0.8 * expected.rungs[0].train_loss, "there is something to learn"
        assert found[lane].state == "complete" and same(found[lane], expected)
        assert read_transcripts(tmp_path / str(lane) / "transcripts.jsonl") == transcripts
        assert [rung.scores for rung in found[lane].rungs] == [rung.scores for rung in expected.rungs]
        assert found[lane].cost.packed == 3 and expected.cost.packed is None
        assert (tmp_path / str(lane) / "weights" / "adapter_model.safetensors").is_file()
    after = context.base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def exchanged_scales(monkeypatch):
    of = AdapterGroup.of.__func__

    def swapped(cls, matrices):
        group = of(cls, matrices)
        if group is not None:
            group.__dict__["scales"] = group.scales.flip(0)
        return group

    monkeypatch.setattr(AdapterGroup, "of", classmethod(swapped))


def one_stream_of_dropout(monkeypatch):
    apply = AdapterGroup.apply_dropout
    monkeypatch.setattr(AdapterGroup, "apply_dropout", lambda self, x, ns, rng: apply(self, x, ns, [rng[0]] * len(rng)))


def dropout_of_the_padded_length(monkeypatch):
    real = PackedModel.with_adapters
    monkeypatch.setattr(PackedModel, "with_adapters", lambda self, which, ns: real(self, which, [max(ns)] * len(ns)))


@pytest.mark.parametrize("broken", [None, exchanged_scales, one_stream_of_dropout, dropout_of_the_padded_length])
def test_a_broken_mixing_would_be_noticed(context, alone, tmp_path, monkeypatch, broken):
    if broken:
        broken(monkeypatch)
    found = together(context, orders(CONFIGS[:2], tmp_path, BUDGET), 2, decide=lambda lane, rung: False)
    assert all(same(found[n], alone(config, n)[0], 1) for n, config in enumerate(CONFIGS[:2], 1)) == (broken is None)


SHAPES = [
    CONFIGS[0].model_copy(update={"label_smoothing_factor": 0.1, "optim": "adafactor", "augmentation": "light"}),
    CONFIGS[1].model_copy(update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    CONFIGS[2].model_copy(update={"per_device_train_batch_size": 2, "scope": "decoder", "lora_dropout": 0.0}),
    CONFIGS[0].model_copy(update={"layers_to_transform": (2, 3), "group_by_length": True}),
]


def test_other_batches_accumulation_scopes_and_a_cut_last_step(context, alone, tmp_path):
    budget = Budget(examples=22)
    found = together(context, orders(SHAPES, tmp_path, budget), 4)
    for lane, config in enumerate(SHAPES, 1):
        assert same(found[lane], alone(config, lane, budget)[0]), f"lane {lane}"
        assert found[lane].cost.steps == alone(config, lane, budget)[0].cost.steps


def test_mixed_precision_is_close(context, alone, tmp_path):
    budget, mixed = Budget(examples=24), [c.model_copy(update={"precision": "bf16"}) for c in CONFIGS[:2]]
    found = together(context, orders(mixed, tmp_path, budget), 2)
    for lane, config in enumerate(mixed, 1):
        assert losses(found[lane]) == pytest.approx(losses(alone(config, lane, budget)[0]), rel=0.01)


def test_while_one_is_half_evaluated_nobody_else_has_a_turn(context, alone, tmp_path):
    """Its adapter is merged into the weights that all share."""
    given = orders(CONFIGS[:2], tmp_path, Budget(examples=24), chunk=5)
    found = together(context, given, 1)
    for lane, config in enumerate(CONFIGS[:2], 1):
        expected, transcripts = alone(config, lane, Budget(examples=24))
        assert same(found[lane], expected) and found[lane].rungs[0].scores == expected.rungs[0].scores
        hypotheses = [t.hypothesis for t in read_transcripts(tmp_path / str(lane) / "transcripts.jsonl")]
        assert hypotheses == [t.hypothesis for t in transcripts]


def test_one_that_diverges_and_one_that_cannot_be_stored_end_alone(context, alone, tmp_path):
    wild = CONFIGS[1].model_copy(update={"learning_rate": 1e18, "max_grad_norm": 1e18})
    given = orders([CONFIGS[0], wild, CONFIGS[1]], tmp_path, BUDGET)
    (tmp_path / "3" / "checkpoint").write_text("in the way")
    found = together(context, given, 3, decide=lambda lane, rung: False)
    assert found[2].state == "pruned" and found[2].reason.startswith("diverged at step")
    assert found[3].type == "failed" and not found[3].poisoned and "Exists" in found[3].reason
    assert same(found[1], alone(CONFIGS[0], 1)[0], 1)


@pytest.mark.parametrize("fits", [1, 0])
def test_memory_that_is_too_small_for_all_is_taken_in_turns_and_for_one_is_its_outcome(
    context, alone, tmp_path, monkeypatch, fits
):
    run_passes, tried = PackedTraining._run_passes, []

    def small(self, trials):
        tried.append(len(trials))
        run_passes(self, trials)
        if len(trials) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedTraining, "_run_passes", small)
    found = together(context, orders(CONFIGS[:2], tmp_path, BUDGET), 2, decide=lambda lane, rung: False)
    assert tried[:3] == [2, 1, 1]
    for lane, config in enumerate(CONFIGS[:2], 1):
        if fits:
            assert (same(found[lane], alone(config, lane)[0], 1) and found[lane].cost.packed is None) or lane
        else:
            assert found[lane].reason == "out_of_memory"


def test_a_view_shares_every_weight_and_nothing_else(context):
    other = make_view(context.base)
    mine, theirs = dict(context.base.model.named_parameters()), dict(other.model.named_parameters())
    assert mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)
    assert not set(map(id, context.base.model.modules())) & set(map(id, other.model.modules()))
    assert other.model.config is not context.base.model.config


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"base_weights": "nf4"}, "nf4"),
        ({"attention_dropout": 0.1}, "dropout"),
        ({"mask_time_prob": 0.1}, "SpecAugment"),
        ({"gradient_checkpointing": True}, "checkpointing"),
        ({"precision": "fp16"}, "fp16"),
    ],
)
def test_what_cannot_be_packed_says_why(change, why):
    config = CONFIGS[0].model_copy(update=change)
    assert why in unpackable_reason(config, BUDGET) and pack_key(config, BUDGET) is None


def test_kinds():
    assert (
        unpackable_reason(CONFIGS[0], BUDGET) is None
        and pack_key(CONFIGS[0], BUDGET) == pack_key(CONFIGS[1], BUDGET) is not None
    )
    for change in ({"precision": "bf16"}, {"encoder_window_seconds": 2.0}):
        assert pack_key(CONFIGS[0].model_copy(update=change), BUDGET) != pack_key(CONFIGS[0], BUDGET)
    assert "seconds" in unpackable_reason(CONFIGS[0], Budget(train_seconds=5))
    assert "full" in unpackable_reason(TrialConfig(method="full"), BUDGET)
