"""The loop itself: what a step is, when it yields, and how it ends."""

import itertools
import time

import pytest
import torch
from examples import batch_of
from trials import run

from harness.data.batches import IGNORED, Batch, Step, chunks, example_order
from harness.data.labels import label_ids
from harness.model.methods import attach, detach
from harness.model.optimizers import make_optimizer
from harness.spec.budget import Budget
from harness.training.batch_order import training_steps
from harness.training.context import make_accelerator
from harness.training.loop import DivergedError, TrainingObjects, train


def gradients(context, config, micro_batch):
    """The gradients of one step over the same 16 examples, in micro-batches of a size."""
    torch.manual_seed(0)
    model = attach(context.base, config.model_copy(update={"lora_dropout": 0.0}))
    try:
        accelerator = make_accelerator("fp32", context.base.device)
        rows = context.speech.rows("train")[:16]
        batches = [batch_of(context, part) for part in chunks(rows, micro_batch)]
        step = Step(batches, len(rows), sum(batch.label_tokens for batch in batches))
        frozen = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        kept = {}
        frozen.zero_grad = lambda *a, **k: kept.update(  # the loop clears gradients after its step; look before
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
        scheduler = torch.optim.lr_scheduler.ConstantLR(frozen)
        objects = TrainingObjects(model, frozen, scheduler, accelerator)
        next(train(objects, [step], Budget(steps=1), [1], max_grad_norm=1e9))
        return kept
    finally:
        detach(context.base, model)


def test_16_x_1_and_4_x_4_give_the_same_gradients(context, lora):
    lengths = {len(context.labels[row]) for row in context.speech.rows("train")[:16]}
    assert len(lengths) > 1, "equal lengths would hide a mean of means"
    whole, parts = gradients(context, lora, 16), gradients(context, lora, 4)
    assert whole.keys() == parts.keys() and whole
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-7)


def test_it_yields_at_rungs_and_its_clock_stands_still_meanwhile(context, lora):
    model = attach(context.base, lora)
    try:
        accelerator = make_accelerator("fp32", context.base.device)
        budget = Budget(examples=32, rungs=(0.25, 0.5, 1.0))
        steps = training_steps(context, lora, budget, seed=1)
        adamw = make_optimizer(model, lora)
        scheduler = torch.optim.lr_scheduler.ConstantLR(adamw)
        began, seen = time.perf_counter(), []
        objects = TrainingObjects(model, adamw, scheduler, accelerator)
        for progress in train(objects, steps, budget, [1, 2, 4], 1.0):
            seen.append((progress.step, progress.examples))
            time.sleep(0.5)
        assert seen == [(1, 8), (2, 16), (4, 32)]
        assert progress.seconds <= time.perf_counter() - began - 1.0
    finally:
        detach(context.base, model)


def test_a_loss_that_is_not_finite_ends_training_at_its_step(context, lora):
    model = attach(context.base, lora)
    try:
        accelerator = make_accelerator("fp32", context.base.device)
        good = batch_of(context, context.speech.rows("train")[:4])
        bad = Batch(torch.full_like(good.input_features, float("nan")), good.decoder_input_ids, good.labels)
        adamw = make_optimizer(model, lora)
        scheduler = torch.optim.lr_scheduler.ConstantLR(adamw)
        with pytest.raises(DivergedError, match="step 2"):
            steps = [Step([batch], 4, batch.label_tokens) for batch in (good, bad)]
            list(train(TrainingObjects(model, adamw, scheduler, accelerator), steps, Budget(steps=2), [2], 1.0))
    finally:
        detach(context.base, model)


def test_the_decoder_starts_with_one_start_token_and_predicts_the_next(context):
    tokenizer = context.base.processor.tokenizer
    generation = context.base.model.generation_config
    labels = [label_ids(tokenizer, generation, text, "en", "transcribe") for text in ("hello there", "a")]
    names = tokenizer.convert_ids_to_tokens(labels[0])
    assert names[:4] == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    assert names[-1] == "<|endoftext|>" and names.count("<|startoftranscript|>") == 1
    batch = batch_of(context, [0, 1], labels)
    assert batch.decoder_input_ids[0].tolist() == labels[0][:-1]
    assert batch.labels[0].tolist() == labels[0][1:]
    assert batch.label_tokens == len(labels[0]) + len(labels[1]) - 2
    assert (batch.labels[1] == IGNORED).sum() == len(labels[0]) - len(labels[1])


def test_the_order_of_examples_is_the_seed_s_alone():
    rows = list(range(100, 110))

    def drawn(seed):
        return list(itertools.islice(example_order(rows, seed), 25))

    order = drawn(3)
    assert sorted(order[:10]) == sorted(order[10:20]) == rows and order[:10] != order[10:20]
    assert drawn(3) == order != drawn(4)


def test_costs_count_the_audio_of_an_epoch(context, lora, tmp_path):
    cost = run(context, lora, tmp_path / "run").cost
    epoch = context.speech.report["epoch"]
    assert cost.samples_per_second > 0
    expected = cost.samples_per_second * epoch["seconds"] / epoch["utterances"]
    assert cost.audio_seconds_per_second == pytest.approx(expected)
