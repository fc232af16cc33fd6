"""Fused and split updates are those that torch and timm compute parameter by parameter."""

from __future__ import annotations

import pytest
import torch
from test_resume import Mixed
from timm.optim.lion import Lion
from torch import nn

from attn_bench.running.train.optimizer import Several, clip, make_optimizer
from attn_bench.sweep.groups import Training

RATES = {"lr": 1e-2, "weight_decay": 0.1}


def theirs(name: str, module: nn.Module) -> list[torch.optim.Optimizer]:
    own = list(module.parameters())
    matrices = [p for p in own if p.ndim == 2]
    match name:
        case "adamw":
            return [torch.optim.AdamW(own, **RATES, foreach=False)]
        case "adam":
            return [torch.optim.Adam(own, **RATES, foreach=False)]
        case "lion":
            return [Lion(own, **RATES, foreach=False)]
        case _:
            others = [p for p in own if p.ndim != 2]
            muon = torch.optim.Muon(matrices, **RATES, adjust_lr_fn="match_rms_adamw")
            return [muon, torch.optim.AdamW(others, **RATES, foreach=False)]


@pytest.mark.parametrize("name", ["adamw", "adam", "lion", "muon"])
def test_updates_are_those_of_the_libraries(name):
    ours, reference = Mixed(), Mixed()
    training = Training(optimizer=name, learning_rate=RATES["lr"], weight_decay=RATES["weight_decay"])
    optimizer, others = make_optimizer(training, ours.parameters()), theirs(name, reference)
    x = torch.randn(3, 1, 8, 8)
    for _ in range(4):
        for module in (ours, reference):
            module.eval()(x).square().mean().backward()
        optimizer.step()
        for each in others:
            each.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in ours.parameters())
        reference.zero_grad()
    for (name, own), other in zip(ours.named_parameters(), reference.parameters()):
        torch.testing.assert_close(own, other, msg=name)


def test_muon_trains_matrices_only_and_a_model_without_any():
    optimizer = make_optimizer(Training(optimizer="muon", learning_rate=1e-2, weight_decay=0.0), Mixed().parameters())
    assert isinstance(optimizer, Several)
    first, _ = optimizer.optimizers
    assert isinstance(first, torch.optim.Muon)
    assert [tuple(p.shape) for group in first.param_groups for p in group["params"]] == [(8, 8)]
    assert len(optimizer.param_groups) == 3
    vectors = nn.Conv2d(1, 1, 3)
    make_optimizer(Training(optimizer="muon", learning_rate=1e-2, weight_decay=0.0), vectors.parameters())


@pytest.mark.parametrize("largest", [0.01, 0.5, 1e6])
def test_clipping_is_torchs(largest):
    ours, reference = Mixed(), Mixed()
    x = 10 * torch.randn(3, 1, 8, 8)
    for module in (ours, reference):
        module.eval()(x).square().sum().backward()
    clip(list(ours.parameters()), largest)
    nn.utils.clip_grad_norm_(reference.parameters(), largest, foreach=False)
    for own, other in zip(ours.parameters(), reference.parameters()):
        torch.testing.assert_close(own.grad, other.grad)


def test_clipping_can_be_switched_off_and_needs_no_gradient():
    module = Mixed()
    clip(list(module.parameters()), 1.0)
    module.eval()(torch.randn(3, 1, 8, 8)).square().sum().mul(1e3).backward()
    before = [p.grad.clone() for p in module.parameters()]
    clip(list(module.parameters()), 0.0)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(module.parameters(), before))
