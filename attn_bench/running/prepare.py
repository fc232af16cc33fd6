"""From a cell to a module that has been called: the start of a run, a measurement and a comparison of revisions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.plugin import Model, Problem, Task, Unsupported
from attn_bench.plugins.fingerprint import SHARED
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.running.cell_failures import Failure, refusals
from attn_bench.running.measure.steps import Steps, build, random_batch
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.outputs import check_output
from attn_bench.running.train.step import autocast
from attn_bench.sweep.cell import Cell, unsupported

# Samples in the first calls: with one, a loss could broadcast an output that does not depend on the sample.
FIRST_SAMPLES = 2


@dataclass(frozen=True)
class Posed:
    """A task with its options, a model, and the problem that the task poses to the model."""

    task: Task
    options: Any
    model: Model
    problem: Problem


@dataclass(frozen=True)
class Prepared:
    """A module that has been called once in each mode.

    Attributes:
        untrainable: why no gradient reaches its parameters, or its first call in training mode failed; None if it
            can be trained, or has no parameters.
        output_dtype: of its output in evaluation mode.
    """

    module: nn.Module
    untrainable: Failure | None
    output_dtype: torch.dtype

    def steps(self, cell: Cell, posed: Posed, keeper: Keeper) -> Steps:
        """Return the steps to measure."""
        return Steps(
            cell, posed.task, posed.problem, self.module, trains=self.untrainable is None, settle=keeper.put_back
        )


def set_flags(cell: Cell) -> None:
    """Set threads and precision of this process for ``cell``."""
    if cell.execution.threads is not None:
        torch.set_num_threads(cell.execution.threads)
    torch.set_float32_matmul_precision("high" if cell.execution.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = cell.execution.precision == "tf32"
    torch.backends.cudnn.benchmark = False
    if cell.execution.compile:
        # Otherwise the time to compile would be that of reading an earlier cell's cache.
        torch.compiler.config.force_disable_caches = True


def pose(cell: Cell, keeper: Keeper) -> Posed:
    """Import the task and the model of a cell, and the modules that the model needs.

    Raises:
        Unsupported: the model says that it cannot serve the problem.
    """
    with keeper.stage("import"):
        task = TASKS.load(cell.task, contained=False)
        # Before the model's plugin, which may replace functions that these modules bind.
        for module in (name for name in cell.sources if name.startswith(SHARED) and "/" not in name):
            with contextlib.suppress(ImportError):
                import_module(module)
        model = MODELS.load(cell.plugin, contained=False)
        options = task.options(**cell.task_options)
        problem = task.problem(cell.resolution, options)
        if (reason := unsupported(cell, model, problem)) is not None:
            raise Unsupported(reason)
        for module in model.imports:
            with contextlib.suppress(Exception):  # ``build`` reports what is missing
                import_module(module)
    return Posed(task, options, model, problem)


def with_batch_size(cell: Cell, size: int) -> Cell:
    """Return the cell with a number as its batch size."""
    return replace(cell, execution=replace(cell.execution, batch_size=size))


def in_samples(cell: Cell, problem: Problem) -> Cell:
    """Return the cell with a number of samples as its batch size where that is given in tokens."""
    tokens = cell.execution.batch_tokens
    return cell if tokens is None else with_batch_size(cell, max(1, tokens // problem.tokens))


def prepare(cell: Cell, posed: Posed, keeper: Keeper) -> Prepared:
    """Build the module of a cell and call it once in each mode, as an ordinary script would before its optimizer.

    This gives lazy modules their parameters, and nothing that a module keeps from a call is made in inference mode.
    The buffers stay as the first call in evaluation mode left them.

    Raises:
        Unsupported: the model, or a library that it is built on, refuses the problem.
        ValueError: the output is not what the problem requires.
    """
    problem = posed.problem
    with keeper.stage("build"), refusals(posed.model, of_torch=True):
        module = build(cell, posed.model, problem)
    with keeper.stage("first call"):
        inputs, _ = random_batch(problem, FIRST_SAMPLES, cell.execution.device, cell.seed)
        module.eval()
        with (
            torch.no_grad(),
            autocast(cell.execution.device, cell.execution.precision),
            refusals(posed.model, of_torch=False),
        ):
            output = module(inputs)
        check_output(output, inputs, problem)
    untrainable = None
    with keeper.stage("first call in training mode"), _same_buffers(module):
        try:
            with refusals(posed.model, of_torch=False):
                _call_in_training_mode(cell, problem, module, inputs)
        except Exception as error:
            untrainable = Failure.of(error)
    module.eval()
    return Prepared(module, untrainable, output.dtype)


def open_steps(cell: Cell) -> Steps:
    """Return the steps of a cell that is only measured; raises the errors of :func:`pose` and :func:`prepare`."""
    set_flags(cell)
    keeper = Keeper(cell.seed)
    posed = pose(cell, keeper)
    cell = in_samples(cell, posed.problem)
    prepared = prepare(cell, posed, keeper)
    return prepared.steps(cell, posed, keeper)


def count_parameters(module: nn.Module) -> int:
    """Number of real trainable numbers; a complex parameter counts as two, an uninitialized lazy one as none."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in trainable(module))


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [
        p for p in module.parameters() if p.requires_grad and not isinstance(p, nn.parameter.UninitializedParameter)
    ]


def _call_in_training_mode(cell: Cell, problem: Problem, module: nn.Module, inputs: Tensor) -> None:
    module.train()
    with autocast(cell.execution.device, cell.execution.precision):
        output = module(inputs)
    check_output(output, inputs, problem, "in training mode")
    if trainable(module) and not output.requires_grad:
        raise ValueError(
            "in training mode no gradient reaches the parameters: the output has requires_grad=False; "
            "look for detach(), .data, NumPy or no_grad in forward"
        )


@contextlib.contextmanager
def _same_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers afterwards, as running statistics start with the first training step."""
    kept = [
        (owner, name, buffer, buffer.detach().clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if not isinstance(buffer, nn.parameter.UninitializedBuffer)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, content in kept:
                back = content
                if buffer.shape == content.shape:
                    with contextlib.suppress(RuntimeError):  # expanded tensors cannot be written to
                        back = buffer.copy_(content)
                if getattr(owner, name) is not back:
                    setattr(owner, name, back)
