"""Optimizers: parameter groups and 8-bit states as transformers' Trainer makes them."""

import pytest
import torch
from bitsandbytes.optim.optimizer import GlobalOptimManager
from examples import batch_of
from torch import nn
from transformers import Trainer, TrainingArguments
from trials import FULL, LORA, VARIANTS

from harness.model.loss import token_loss
from harness.model.methods import attach, detach
from harness.model.optimizers import eight_bit_share, make_optimizer
from harness.spec.trial import TrialConfig

OPTIM = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}
METHODS = ["lora", "dora", "bias all", "bias lora_only", "full", "frozen encoder"]


@pytest.fixture(autouse=True)
def manager():
    """What the Trainer registers with bitsandbytes stays there: no test sees another's."""
    GlobalOptimManager.get_instance().initialize()
    yield
    GlobalOptimManager.get_instance().initialize()


@pytest.fixture
def attached(context):
    """Attach a configuration's method to the base; undone before the next, and afterwards."""
    models = list[nn.Module]()

    def make(fields):
        while models:
            detach(context.base, models.pop())
        config = TrialConfig.model_validate(fields)
        models.append(attach(context.base, config))
        return models[-1], config

    yield make
    detach(context.base, models.pop())


def groups(model, optimizer):
    """The names of the parameters by weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]}
        for group in optimizer.param_groups
        if group["params"]
    }


def trainer_of(model, config, folder):
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], optim=OPTIM[config.optim], weight_decay=config.weight_decay
    )
    return Trainer(model=model, args=arguments)


def step(context, model, optimizer):
    rows = context.speech.rows("train")[:2]
    token_loss(model, batch_of(context, rows)).backward()
    optimizer.step()


@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit", "adafactor"])
@pytest.mark.parametrize("method", METHODS)
def test_weight_decay_acts_where_the_trainer_s_does(attached, tmp_path, method, optim):
    model, config = attached(VARIANTS[method] | {"optim": optim, "weight_decay": 0.1})
    trainer = trainer_of(model, config, tmp_path)
    found = groups(model, make_optimizer(model, config))
    assert found == groups(model, trainer.create_optimizer())
    assert any("bias" in name or "norm" in name for name in found.get(0.0, ())) == (method not in ("lora", "dora"))


@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit"])
def test_weight_decay_shrinks_matrices_by_hand_and_leaves_norms(context, attached, optim):
    model, config = attached(FULL | {"learning_rate": 0.1, "weight_decay": 0.5, "optim": optim})
    optimizer = make_optimizer(model, config)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for name, parameter in model.named_parameters():
        matrix = parameter.requires_grad and "norm" not in name and "bias" not in name
        torch.testing.assert_close(parameter, before[name] * (1 - 0.1 * 0.5 if matrix else 1), msg=name)


def test_embeddings_keep_32_bit_states_and_no_later_trial_does(context, attached, tmp_path):
    model, config = attached(FULL | {"optim": "adamw_8bit"})
    optimizer = make_optimizer(model, config)
    step(context, model, optimizer)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad}
    large = {p: state["state1"].dtype for p, state in optimizer.state.items() if p.numel() >= 4096}
    assert len(embeddings) == 2 and len(large) > 10
    assert all(dtype == (torch.float32 if id(p) in embeddings else torch.uint8) for p, dtype in large.items())
    expected = trainer_of(model, config, tmp_path).create_optimizer()
    model.zero_grad()
    step(context, model, expected)
    assert {p: state["state1"].dtype for p, state in expected.state.items() if p.numel() >= 4096} == large
    assert 0 < eight_bit_share(optimizer) < 1
    model.zero_grad()
    adapted, config = attached(LORA | {"optim": "adamw_8bit", "r": 64})
    later = make_optimizer(adapted, config)
    step(context, adapted, later)
    assert eight_bit_share(later) == 1.0
