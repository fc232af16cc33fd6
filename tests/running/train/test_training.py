"""The training loop: its schedule, its budgets, and that a stopped run ends where it would have ended."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_plugins import NaN, Toy, ToyTask

from attn_bench.plugin import Problem
from attn_bench.running.train import loop
from attn_bench.running.train.batches import batches, predict
from attn_bench.running.train.course import Diverged
from attn_bench.running.train.loop import Every, train
from attn_bench.running.train.setup import Extras, Score, TrainingSetup
from attn_bench.sweep.groups import Execution, Training

SETTINGS = Training(epochs=6, learning_rate=1e-2, weight_decay=1e-4, clip_norm=1.0)
NO_EXTRAS = Extras()
HOW = Execution(batch_size=4, device="cpu")
PROBLEM = Problem("field", 1, 1, (8, 8))


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return Toy().make(PROBLEM)


def set_up(module, extras=NO_EXTRAS):
    task = ToyTask()
    data = task.splits(8, task.options())
    return TrainingSetup(module, data.train, data.test, task.loss, extras)


def run(module, settings=SETTINGS, extras=NO_EXTRAS, **options):
    return train(set_up(module, extras), settings, HOW, seed=0, **options)


def test_training_lowers_the_loss():
    losses = []
    result = run(
        fresh(), dataclasses.replace(SETTINGS, epochs=40), report=lambda p: losses.append(p.loss), every=Every(0)
    )
    assert result.steps == 160
    assert result.epochs == 40
    assert result.loss < 0.5 * losses[3]


@pytest.mark.parametrize(("unit", "budget", "steps"), [("epochs", 1.5, 6), ("steps", 7, 7)])
def test_budgets(unit, budget, steps):
    assert run(fresh(), dataclasses.replace(SETTINGS, **{"epochs": None, unit: budget})).steps == steps


def test_a_budget_in_seconds_ends():
    result = run(fresh(), dataclasses.replace(SETTINGS, epochs=None, seconds=0.3))
    assert result.seconds >= 0.3
    assert result.steps > 1


def test_a_budget_in_seconds_is_at_least_one_step():
    result = run(fresh(), dataclasses.replace(SETTINGS, epochs=None, seconds=1e-9))
    assert result.steps == 1
    assert result.curve.loss.steps == (1,)


def test_curves_have_the_points_that_are_due_while_data_are_read(monkeypatch):
    clock = [0.0]

    def slow(*args):
        for batch in batches(*args):
            clock[0] += 1
            yield batch

    monkeypatch.setattr(loop, "batches", slow)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    setup = dataclasses.replace(set_up(fresh()), validation=set_up(fresh()).test, score=Score.of(ToyTask()))
    training = dataclasses.replace(SETTINGS, epochs=None, seconds=10.0, validation_points=5)
    result = train(setup, training, HOW, seed=0)
    assert result.curve.error.seconds == (2, 4, 6, 8, 10)
    assert result.curve.loss.seconds == tuple(range(1, 11))


def test_nan_is_divergence():
    with pytest.raises(Diverged, match="nan at step 1, epoch 1"):
        run(NaN().make(PROBLEM))


def test_bf16_keeps_weights_and_loss_in_float32():
    task, module = ToyTask(), fresh()
    train(set_up(module), SETTINGS, dataclasses.replace(HOW, precision="bf16"), seed=0)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    found = list(predict(module, task.splits(8, task.options()).test, batch_size=5, precision="bf16", device="cpu"))
    assert {p.dtype for p, _ in found} == {torch.float32}
    assert sum(len(p) for p, _ in found) == 16
