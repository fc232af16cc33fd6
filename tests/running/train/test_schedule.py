"""Learning rates are those of torch's schedulers, at equal progress."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from attn_bench.running.train.schedule import learning_rate
from attn_bench.sweep.groups import Training

TOTAL = 60


def rates(scheduler_of) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = scheduler_of(optimizer)
    found = []
    for _ in range(TOTAL):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(**settings) -> list[float]:
    training = Training(learning_rate=2.0, **settings)
    return [learning_rate(training, step / TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize(("div", "final"), [(25.0, 1e4), (10.0, 100.0)])
def test_one_cycle(div, final):
    # Torch's reaches its end at the last step, ours at the end of the last step.
    settings = {"cycle_momentum": False, "pct_start": 0.32, "div_factor": div, "final_div_factor": final}
    theirs = rates(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=TOTAL + 1, **settings))
    warmup = (0.32 * (TOTAL + 1) - 1) / TOTAL
    found = ours(lr_warmup=warmup, lr_start=1 / div, lr_end=1 / (div * final))
    assert found == pytest.approx(theirs, rel=1e-6)


def test_the_defaults_of_one_cycle_are_torchs():
    theirs = rates(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=10 * TOTAL))
    assert ours()[0] == pytest.approx(theirs[0])
    assert learning_rate(Training(learning_rate=2.0), 0.3) == 2.0
    assert learning_rate(Training(learning_rate=2.0), 1.0) == pytest.approx(2.0 / 25 / 1e4)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine(floor):
    theirs = rates(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL, eta_min=2 * floor))
    assert ours(schedule="cosine", lr_end=floor) == pytest.approx(theirs, rel=1e-6)


def test_cosine_after_a_warm_up():
    def scheduler_of(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=15)
        fall = lr_scheduler.CosineAnnealingLR(optimizer, TOTAL - 15)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[15])

    assert ours(schedule="cosine", lr_warmup=0.25, lr_start=0.1) == pytest.approx(rates(scheduler_of), rel=1e-6)


@pytest.mark.parametrize("size", [6, 12, 20])
def test_step(size):
    theirs = rates(lambda optimizer: lr_scheduler.StepLR(optimizer, size, gamma=0.3))
    assert ours(schedule="step", lr_step=size / TOTAL, lr_factor=0.3) == pytest.approx(theirs, rel=1e-6)


def test_constant():
    assert ours(schedule="constant") == [2.0] * TOTAL
    rising = ours(schedule="constant", lr_warmup=0.5)
    assert rising[15] == pytest.approx(1.0)
    assert rising[30:] == [2.0] * 30
