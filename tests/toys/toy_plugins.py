"""Plugins for the tests of the harness: a small model, models that fail, and a task whose data are a formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from attn_bench.plugin import Metric, Model, OptionError, Problem, Splits, Task, TrainingDefaults, Unsupported

HELPER = object()


class Toy(Model):
    name = "toy"
    summary = "Two convolutions."
    citation = "none"
    kinds = frozenset({"field"})
    presets = {"wide": {"width": 16}}

    @dataclass(frozen=True)
    class Options:
        width: Annotated[int, Field(description="hidden channels, on two lines.")] = 4
        act: Annotated[Literal["relu", "tanh"], Field(description="activation.")] = "relu"

    def build(self, problem: Problem, options: Options):
        from torch import nn

        if options.width > 99:
            raise OptionError(f"toy.width is at most 99 (given: {options.width})")
        return nn.Sequential(
            nn.Conv2d(problem.inputs, options.width, 3, padding=1),
            nn.ReLU() if options.act == "relu" else nn.Tanh(),
            nn.Conv2d(options.width, problem.outputs, 3, padding=1),
        )

    def effective(self, module, problem):
        return {"width": module[0].out_channels}


class Unfit(Model):
    name = "toy-unfit"
    summary = "Serves grids up to 8."
    kinds = frozenset({"field"})

    def unsupported(self, problem: Problem, device: str, options):
        return f"grid {problem.grid} is above 8" if problem.grid[0] > 8 else None

    def build(self, problem: Problem):
        from torch import nn

        class Small(nn.Conv2d):
            def forward(self, x):
                if x.shape[-1] > 8:
                    raise Unsupported("only up to 8")
                return super().forward(x)

        return Small(1, 1, 1)


class Raises(Toy):
    name = "toy-raises"

    def build(self, problem: Problem):
        raise RuntimeError("boom\nin two lines")


class NaN(Toy):
    name = "toy-nan"

    def build(self, problem: Problem):
        import torch
        from torch import nn

        class Bad(nn.Conv2d):
            def forward(self, x):
                return super().forward(x) * torch.tensor(float("nan"))

        return nn.Sequential(Bad(1, 1, 1))


class Slow(Toy):
    name = "toy-slow"
    summary = "Sleeps in every forward pass."

    @dataclass(frozen=True)
    class Options(Toy.Options):
        seconds: float = 60.0

    def build(self, problem: Problem, options: Options):
        import time

        module = super().build(problem, options)
        module.register_forward_pre_hook(lambda *_: time.sleep(options.seconds))
        return module


class Recompiles(Toy):
    name = "toy-recompiles"
    summary = "Makes torch.compile start over in every call."

    def build(self, problem: Problem):
        from torch import nn

        class Counting(nn.Conv2d):
            calls = 0

            def forward(self, x):
                self.calls += 1
                return super().forward(x) * self.calls

        return nn.Sequential(Counting(1, 1, 1))


class Hungry(Toy):
    name = "toy-hungry"
    summary = "Runs out of memory at 10 and above."

    def build(self, problem: Problem, options: Toy.Options):
        import torch

        if problem.grid[0] >= 10:
            torch.empty(1 << 60, dtype=torch.uint8)
        return super().build(problem, options)


class Nothing(Toy):
    name = "toy-nothing"

    def build(self, problem: Problem):
        return None


class Miskind(Toy):
    name = "toy-kind"
    kinds = frozenset({"fields"})


class Misnamed(Toy):
    name = "other"


class ToyTask(Task):
    name = "toy-task"
    summary = "The 3 x 3 mean of white noise."
    kind = "field"
    metrics = {"rel_l2": Metric("lower", "relative error"), "rel_mse": Metric("lower", "its square")}
    defaults = TrainingDefaults(resolutions=(8, 12), epochs=2, batch_size=4)

    @dataclass(frozen=True)
    class Options:
        n: Annotated[int, Field(description="samples")] = 16
        scale: float = 1.0

    def problem(self, resolution: int, options: Options) -> Problem:
        return Problem("field", 1, 1, (resolution, resolution))

    def splits(self, resolution: int, options: Options) -> Splits:
        import torch
        from torch.utils.data import TensorDataset

        n = options.n
        x = torch.randn(2 * n, 1, resolution, resolution, generator=torch.Generator().manual_seed(0)) * options.scale
        y = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        return Splits(TensorDataset(x[:n], y[:n]), TensorDataset(x[n:], y[n:]), {"n": n})

    def loss(self, prediction, target):
        return (prediction - target).square().mean()

    def evaluate(self, batches):
        total = count = 0
        for prediction, target in batches:
            total += float((prediction - target).square().sum() / target.square().sum()) * len(target)
            count += len(target)
        return {"rel_l2": (total / count) ** 0.5, "rel_mse": total / count}
