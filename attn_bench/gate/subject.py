"""A plugin under test: the problems it is tried on, its modules and their inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.format import clean
from attn_bench.plugin import KINDS, Kind, Model, Problem, Unsupported
from attn_bench.running.device.select import device_of
from attn_bench.running.measure.steps import random_batch
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.outputs import check_output
from attn_bench.running.train.step import autocast

# Grids to try; a plugin is checked on the first one of each kind that it serves.
SIDES = (16, 32, 64, 128, 224, 256)
LENGTHS = (96, 128, 256, 512)


class Broken(Exception):
    """A promise does not hold; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A plugin with its options.

    Attributes:
        model: the plugin.
        options: of the model, by name; the others have their defaults.
        device: ``"cpu"`` or ``"cuda"``.
        keeper: restores process-wide settings after each call of the plugin.
    """

    model: Model
    options: Mapping[str, Any]
    device: str
    keeper: Keeper

    @cached_property
    def problems(self) -> Mapping[Kind, Problem]:
        """A small problem of each kind that the plugin serves on this device."""
        return {kind: found for kind in sorted(self.model.kinds) if (found := self._smallest(kind)) is not None}

    @cached_property
    def refused(self) -> Mapping[Kind, str]:
        """Why its other kinds are not served here."""
        others = (kind for kind in sorted(self.model.kinds) if kind not in self.problems)
        return {kind: str(self.reason(_problem(kind, max(_sizes(kind))))) for kind in others}

    def _smallest(self, kind: Kind) -> Problem | None:
        problems = (_problem(kind, size) for size in _sizes(kind))
        return next((problem for problem in problems if self.reason(problem) is None), None)

    def reason(self, problem: Problem) -> str | None:
        """Return why the plugin does not serve ``problem``, or None if it does."""
        return self.model.unsupported(problem, self.device, self.model.options(**self.options))

    def module(self, problem: Problem, seed: int = 0) -> nn.Module:
        """Return a module for ``problem``, called once, in evaluation mode."""
        torch.manual_seed(seed)
        with _on(problem):
            module = self.model.make(problem, **self.options)
        self.keeper.put_back()
        if not isinstance(module, nn.Module):
            raise Broken(f"build returned {type(module).__name__}, not a torch.nn.Module")
        module.to(device_of(self.device).tensors).eval()
        self.output(module, problem, self.inputs(problem))
        return module

    def inputs(self, problem: Problem, batch: int = 2) -> Tensor:
        """Return random inputs, always the same."""
        return random_batch(problem, batch, self.device, seed=0)[0]

    def output(self, module: nn.Module, problem: Problem, inputs: Tensor, precision: str = "float32") -> Tensor:
        """Return the output of ``module`` for ``inputs``; in training mode with gradients.

        Raises:
            Broken: the output does not fit the problem, or is not finite.
        """
        mode = "in training mode" if module.training else ""
        gradients, cast = torch.set_grad_enabled(module.training), autocast(self.device, precision)  # type: ignore[arg-type]
        with gradients, cast, _on(problem):
            output = module(inputs)
        self.keeper.put_back()
        try:
            check_output(output, inputs, problem, mode)
        except ValueError as error:
            raise Broken(str(error)) from None
        if not output.isfinite().all():
            raise Broken(f"{described(problem)}: the output is not finite {mode}".rstrip())
        return output

    def gradients(self, problem: Problem, precision: str = "float32") -> Iterator[tuple[str, Tensor | None]]:
        """Yield the name and the gradient of each trained parameter after one backward pass."""
        module = self.module(problem).train()
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        if not named:
            return
        output = self.output(module, problem, self.inputs(problem), precision)
        if output.requires_grad:
            with _on(problem):
                output.float().square().mean().backward()
        yield from ((name, parameter.grad) for name, parameter in named)


@contextlib.contextmanager
def _on(problem: Problem) -> Iterator[None]:
    """Say of an error of the plugin on which problem it came, and from which of its lines.

    Raises:
        Broken: any error but :class:`attn_bench.plugin.Unsupported`.
    """
    try:
        yield
    except Unsupported:
        raise
    except Exception as error:
        frames = (
            (frame.f_globals.get("__name__", ""), frame.f_code, line) for frame, line in walk_tb(error.__traceback__)
        )
        lines = [
            f" ({Path(code.co_filename).name}, line {line})"
            for module, code, line in frames
            if module.partition(".")[0] not in ("torch", "attn_bench")
        ]
        said = clean(f"{described(problem)}: {type(error).__name__}: {error}")
        raise Broken(f"{said}{lines[-1] if lines else ''}") from error


def _sizes(kind: Kind) -> tuple[int, ...]:
    return LENGTHS if KINDS[kind].text else SIDES


def _problem(kind: Kind, size: int) -> Problem:
    if KINDS[kind].text:
        return Problem(kind, 11, 7, (size,))
    return Problem(kind, 3 if KINDS[kind].classes else 2, 5, (size, size))


def on(problem: Problem, *grid: int) -> Problem:
    """Return ``problem`` on another grid."""
    return replace(problem, grid=grid)


def described(problem: Problem) -> str:
    """Return the kind and the grid, ``"field 16 x 16"``."""
    return f"{problem.kind} {' x '.join(map(str, problem.grid))}"
