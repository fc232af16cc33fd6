"""A training that was stopped and resumed is, bit for bit, the one that was not, with every optimizer and schedule."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from toy_plugins import ToyTask

from attn_bench.results.record import Series, TrainingResult
from attn_bench.running.train.loop import Every, Progress, train
from attn_bench.running.train.setup import Score, TrainingSetup
from attn_bench.sweep.groups import Execution, Optimizer, Schedule, Training

HOW = Execution(batch_size=4, device="cpu")
SETTINGS = Training(epochs=3, learning_rate=1e-2, weight_decay=1e-2, clip_norm=0.5, validation_points=6)


class Mixed(nn.Module):
    """Parameters of every kind: matrices, vectors, filters and complex numbers; and it draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters = nn.Conv2d(1, 4, 3, padding=1)
        self.matrix = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.1)
        self.modes = nn.Parameter(torch.randn(4, 8, 5, dtype=torch.complex64) / 8)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.matrix(self.filters(x)).tanh())
        return self.out(x + torch.fft.irfft2(torch.fft.rfft2(x) * self.modes, s=x.shape[-2:]))


class Stop(Exception):
    pass


def setup(module: nn.Module) -> TrainingSetup:
    task = ToyTask()
    data = task.splits(8, task.options())
    return TrainingSetup(module, data.train, data.test, task.loss, validation=data.test, score=Score.of(task))


def trained(settings: Training, checkpoint: Path | None = None, **options: Any) -> tuple[nn.Module, TrainingResult]:
    module = Mixed()
    torch.manual_seed(1)
    return module, train(setup(module), settings, HOW, seed=0, checkpoint=checkpoint, **options)


def resumed(settings: Training, folder: Path, stop_at: int) -> tuple[nn.Module, TrainingResult]:
    """Train until step ``stop_at``, and then go on from the checkpoint."""

    def stop(progress: Progress) -> None:
        if progress.epoch * 4 > stop_at:
            raise Stop

    with pytest.raises(Stop):
        trained(settings, folder / "c.pt", every=Every(0, 0), report=stop)
    module, result = trained(settings, folder / "c.pt", every=Every(checkpoint=1e9))
    assert result.warning is None
    return module, result


def told(result: TrainingResult) -> TrainingResult:
    """Return a result without times."""
    assert result.curve is not None

    def timeless(series: Series) -> Series:
        return dataclasses.replace(series, seconds=())

    curve = dataclasses.replace(result.curve, loss=timeless(result.curve.loss), error=timeless(result.curve.error))
    return dataclasses.replace(result, seconds=0.0, evaluation_seconds=0.0, curve=curve)


EVERY = list(itertools.product(get_args(Optimizer), get_args(Schedule)))


@pytest.mark.parametrize(("optimizer", "schedule"), EVERY)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, optimizer, schedule):
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer, schedule=schedule)
    whole, result = trained(settings)
    again, resumed_result = resumed(settings, tmp_path, 5)
    assert told(resumed_result) == told(result)
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


@pytest.mark.parametrize("stop_at", [3, 8])
@pytest.mark.parametrize("ema", [0.0, 0.8])
@pytest.mark.parametrize("select", ["best", "best-on-test"])
def test_means_and_the_best_weights_are_resumed_as_well(tmp_path, ema, select, stop_at):
    # A rate at which the first weights are the best ones.
    settings = dataclasses.replace(SETTINGS, ema=ema, select=select, learning_rate=0.3, schedule="constant")
    whole, result = trained(settings)
    again, resumed_result = resumed(settings, tmp_path, stop_at)
    assert told(resumed_result) == told(result)
    assert result.selected_on == ("test" if select == "best-on-test" else "validation")
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_optimizers_and_schedules_are_different_ones():
    results = {}
    for optimizer, schedule in EVERY:
        module, _ = trained(dataclasses.replace(SETTINGS, epochs=1, optimizer=optimizer, schedule=schedule))
        results[optimizer, schedule] = torch.cat([p.detach().abs().flatten() for p in module.parameters()])
    for one, other in itertools.combinations(results, 2):
        assert not torch.equal(results[one], results[other]), (one, other)
