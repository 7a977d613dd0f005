"""What an optimizer step does, by hand: learning rate, clipping, smoothing, skipped steps, and what is counted."""

import math

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.nn.functional import log_softmax

from harness.data.batches import IGNORED, Step
from harness.hardware.clock import Clock
from harness.model.loss import summed_loss
from harness.model.optimizers import make_scheduler
from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator
from harness.training.loop import Progress, TrainingObjects, next_event, training_loop

CPU = torch.device("cpu")
STEPS = 10


class Recorder(torch.optim.SGD):
    """SGD that records the learning rate and the gradient of each step."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.rates, self.gradients = list[float](), list[torch.Tensor]()

    def step(self, closure=None):
        self.rates.append(self.param_groups[0]["lr"])
        self.gradients.append(self.param_groups[0]["params"][0].grad.clone())
        super().step(closure)


def config_of(**fields):
    return TrialConfig.model_validate({"method": "full", "learning_rate": 1.0} | fields)


def trained(config, steps, budget=None, gradient=lambda number: [3.0, 4.0], scaler=None, clock=None):
    """Run the loop with given gradients on a model of two numbers: the optimizer and what each rung reported."""
    budget = budget or Budget(steps=len(steps))
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = prepared = Recorder(model.parameters(), config.learning_rate)
    accelerator = make_accelerator("fp32", CPU)
    if scaler is not None:
        prepared = AcceleratedOptimizer(optimizer, scaler=scaler)
        accelerator.scaler, accelerator._optimizers = scaler, [prepared]
    scheduler = make_scheduler(optimizer, config, budget.schedule_steps(1))
    objects = TrainingObjects(model, prepared, scheduler, accelerator)
    clock = clock or Clock(CPU)
    events = training_loop(objects, steps, budget, budget.rung_steps(1), config.max_grad_norm, clock, Progress())
    found, loss, number = list[Progress](), None, 0
    while (event := next_event(events, loss)) is not None:
        loss = None
        if isinstance(event, Progress):
            found.append(event)
            continue
        scale = scaler.scale(torch.ones(())) if scaler is not None else 1.0
        model.weight.grad = torch.tensor([gradient(number)]) * scale
        loss, number = torch.tensor(float(number)), number + 1
    return optimizer, found


def a_step(tokens=5, examples=2):
    return Step([], examples, tokens)


def expected_rate(kind, step, warmup, total=STEPS):
    """transformers' schedules from their documentation; `step` counts from 0."""
    if step < warmup:
        return step / warmup
    part = (step - warmup) / (total - warmup)
    return {"linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2, "constant_with_warmup": 1.0}[kind]


@pytest.mark.parametrize("warmup", [{"warmup_steps": 3}, {"warmup_ratio": 0.4}, {}], ids=str)
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_the_learning_rate_at_each_step(kind, warmup):
    config = config_of(lr_scheduler_type=kind, **warmup)
    optimizer, _ = trained(config, [a_step()] * STEPS)
    steps = warmup.get("warmup_steps", round(warmup.get("warmup_ratio", 0) * STEPS))
    assert optimizer.rates == pytest.approx([expected_rate(kind, step, steps) for step in range(STEPS)])


@pytest.mark.parametrize("norm", [2.5, 5.0, 100.0])
def test_gradients_are_clipped_to_their_norm_before_the_step(norm):
    optimizer, _ = trained(config_of(max_grad_norm=norm), [a_step()])  # (3, 4) has the norm 5
    expected = [[3.0, 4.0]] if norm >= 5 else [[1.5, 2.0]]
    torch.testing.assert_close(optimizer.gradients[0], torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing_mixes_the_target_with_all_tokens(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 7, generator=generator)
    labels = torch.tensor([[1, 4, IGNORED], [6, 0, 2]])
    expected = 0.0
    for row in range(2):
        for position in range(3):
            if (label := int(labels[row, position])) != IGNORED:
                logs = log_softmax(logits[row, position], dim=0)
                expected -= (1 - smoothing) * float(logs[label]) + smoothing * float(logs.mean())
    assert float(summed_loss(logits, labels, smoothing)) == pytest.approx(expected, rel=1e-5)


def test_a_rung_reports_what_was_trained_and_the_mean_loss_per_token():
    steps = [a_step(tokens=tokens, examples=examples) for tokens, examples in ((1, 2), (3, 2), (10, 1))]
    _, rungs = trained(config_of(), steps, Budget(steps=3, rungs=(0.6, 1.0)))
    assert [(p.step, p.examples, p.label_tokens) for p in rungs] == [(2, 4, 4), (3, 5, 14)]
    assert [p.loss for p in rungs] == [(0 * 1 + 1 * 3) / 4, 2.0]  # the loss of step k is k


def test_a_step_that_the_scaler_skips_does_not_move_the_schedule():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    bad = {1, 2, 5}
    config = config_of(warmup_steps=3, max_grad_norm=1e9)
    steps = [a_step()] * STEPS
    optimizer, rungs = trained(
        config,
        steps,
        Budget(steps=STEPS, rungs=(0.5, 1.0)),
        gradient=lambda number: [float("inf") if number in bad else 1.0, 1.0],
        scaler=scaler,
    )
    taken = STEPS - len(bad)
    assert optimizer.rates == pytest.approx([expected_rate("linear", step, 3) for step in range(taken)])
    assert [(p.step, p.skipped_steps) for p in rungs] == [(5, 2), (10, 3)]


class Stopped(Clock):
    """A clock that moves only when it is told to."""

    def elapsed(self):
        return self.seconds


def test_under_a_budget_in_seconds_the_schedule_follows_the_clock():
    clock = Stopped(CPU)

    def gradient(number):
        clock.seconds += 1.0
        return [3.0, 4.0]

    config, budget = config_of(warmup_ratio=0.2), Budget(train_seconds=STEPS)
    optimizer, rungs = trained(config, [a_step()] * 99, budget, gradient, clock=clock)
    assert optimizer.rates == pytest.approx([expected_rate("linear", step, 2) for step in range(STEPS)])
    assert [(p.step, p.seconds) for p in rungs] == [(STEPS, STEPS)]
