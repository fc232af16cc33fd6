"""A model whose best learning rate is known, and a task whose test set must not be read before the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from attn_bench.plugin import Metric, Model, Problem, Splits, Task, TrainingDefaults

READ = "the test set was read"


class Scale(Model):
    """Multiplies by one weight, which is 0 at first.

    AdamW changes it by about the learning rate in a step: with a small one it does not arrive at 1 in time, and with a
    large one it jumps over it.
    """

    name = "toy-scale"
    summary = "One weight."
    kinds = frozenset({"field"})

    def build(self, problem: Problem):
        import torch
        from torch import nn

        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(()))

            def forward(self, x):
                return self.weight * x

        return Scaled()


class Sealed:
    """A dataset that must not be read."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        raise RuntimeError(READ)


class SealedTask(Task):
    name = "toy-sealed"
    summary = "White noise as it is."
    kind = "field"
    metrics = {"mse": Metric("lower", "mean squared error")}
    defaults = TrainingDefaults(resolutions=(8,), epochs=4, batch_size=4, learning_rate=1e-3, clip_norm=0.0)

    @dataclass(frozen=True)
    class Options:
        sealed: Annotated[bool, Field(description="the test set raises an error when it is read.")] = True

    def problem(self, resolution: int, options: Options) -> Problem:
        return Problem("field", 1, 1, (resolution, resolution))

    def splits(self, resolution: int, options: Options) -> Splits:
        import torch
        from torch.utils.data import TensorDataset

        x = torch.randn(40, 1, resolution, resolution, generator=torch.Generator().manual_seed(0))
        return Splits(TensorDataset(x, x), Sealed(8) if options.sealed else TensorDataset(x[:8], x[:8]))

    def loss(self, prediction, target):
        return (prediction - target).square().mean()

    def evaluate(self, batches):
        errors = [(float((prediction - target).square().mean()), len(target)) for prediction, target in batches]
        return {"mse": sum(error * n for error, n in errors) / sum(n for _, n in errors)}
