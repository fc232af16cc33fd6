"""The measured steps of a module: a forward pass without gradients, and a complete training step."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attn_bench.plugin import Model, Problem, Task
from attn_bench.results.record import Energy, Flops, Latency, Memory
from attn_bench.running.device.meter import Meter
from attn_bench.running.device.select import device_of
from attn_bench.running.measure.calibration import calibration_ms, calibration_step
from attn_bench.running.measure.energy import measure_energy
from attn_bench.running.measure.flops import count_flops
from attn_bench.running.measure.latency import measure_latency
from attn_bench.running.measure.memory import is_seen, measure_memory
from attn_bench.running.measure.parts import measure_parts
from attn_bench.running.train.losses import loss_of
from attn_bench.running.train.optimizer import Update
from attn_bench.running.train.step import Batch, Step, as_called, autocast
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Training

if TYPE_CHECKING:
    from attn_bench.nn.generation import Generation

# Of a training step, in order: the first includes the loss, the last clipping and dropping the gradient.
PARTS = ("train_forward", "backward", "optimizer")


def build(cell: Cell, model: Model, problem: Problem) -> nn.Module:
    """Return the module of a cell on its device; raises TypeError if the plugin does not return a module."""
    module = model.make(problem, **cell.options)
    if not isinstance(module, nn.Module):
        raise TypeError(f"build of {cell.plugin} returned {type(module).__name__}, not a torch.nn.Module")
    return module.to(device_of(cell.execution.device).tensors)


def random_batch(problem: Problem, batch_size: int, device: str, seed: int) -> Batch:
    """Return random inputs and targets of the shapes of ``problem``, for timing; never zeros."""
    generator, place = torch.Generator().manual_seed(seed), device_of(device).tensors

    def drawn(shape: tuple[int, ...], below: int | None) -> Tensor:
        if below is not None:
            return torch.randint(below, shape, generator=generator).to(place)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(place)

    spec = problem.spec
    inputs = drawn(problem.input_shape(batch_size), problem.inputs if spec.text else None)
    return inputs, drawn(problem.target_shape(batch_size), problem.outputs if spec.classes else None)


def generation_of(module: nn.Module) -> Generation | None:
    """Return what generates token by token with a module of causal text; None if it cannot."""
    from attn_bench.nn.generation import Generation

    return Generation.of(module)


class Steps:
    """The bare module of a cell on random data, ready to be measured.

    Attributes:
        names: ``forward``, and ``train_step`` if there is something to train, except after a linear probe, which is
            trained on features and not on inputs.

    Args:
        trains: whether the module can be trained.
        settle: called after a step was timed and before anything else is, to undo its process-wide changes.
    """

    def __init__(
        self,
        cell: Cell,
        task: Task,
        problem: Problem,
        module: nn.Module,
        *,
        trains: bool = True,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.settle = settle
        self.cell, self.problem, self.module, self.task = cell, problem, module, task
        self.device = device_of(cell.execution.device)
        self.inputs, self.targets = random_batch(problem, cell.execution.samples, cell.execution.device, cell.seed)
        self.called = as_called(module, cell.execution)
        trains = trains and any(p.requires_grad for p in module.parameters()) and cell.regime != "linear-probe"
        self.train_step = self._train_step_of(cell) if trains else None
        self.names = ("forward", "train_step") if trains else ("forward",)
        # A compiled module has no single steps.
        self.generation = generation_of(module) if problem.spec.causal and not cell.execution.compile else None

    def step(self, name: str) -> Callable[[], object]:
        """Switch the module to the mode of a step and return the step; use one at a time.

        In addition to ``names`` there are ``forward_batch1``, the forward pass of one sample, and ``token``, which
        generates one token after the context in the inputs.
        """
        if self.inputs._version:  # the module wrote to its input, as it may to a batch of a data loader
            self.inputs, self.targets = random_batch(
                self.problem, self.cell.execution.samples, self.cell.execution.device, self.cell.seed
            )
        self.module.train(name == "train_step")
        if name == "train_step":
            assert self.train_step is not None
            return partial(self.train_step, self.inputs, self.targets)
        if name == "token":
            return partial(self._token, self._context())
        return partial(self._forward, self.inputs[:1] if name == "forward_batch1" else self.inputs)

    def _forward(self, inputs: Tensor) -> Tensor:
        # Not in inference mode, as tensors that a module keeps from such a call cannot be used in training.
        with torch.no_grad(), autocast(self.cell.execution.device, self.cell.execution.precision):
            return self.called(inputs)

    @torch.no_grad()
    def _context(self) -> Any:
        """Return the state after the inputs but their last token, which comes next."""
        assert self.generation is not None
        with autocast(self.cell.execution.device, self.cell.execution.precision):
            return self.generation.prefill(self.inputs[:, :-1])[1]

    @torch.no_grad()
    def _token(self, state: Any) -> Tensor:
        assert self.generation is not None
        with autocast(self.cell.execution.device, self.cell.execution.precision):
            return self.generation.step(self.inputs[:, -1], state)[0]

    def state(self) -> Memory:
        """Return the size of what is kept of the context in the inputs, to generate the next token."""
        self.module.eval()
        from attn_bench.nn.generation import size

        mib = size(self._context()) / 2**20
        return Memory(peak_mib=mib, total_mib=mib)

    def _train_step_of(self, cell: Cell) -> Step:
        """Return the step that training repeats, with a learning rate that leaves the weights where they are."""
        training = replace((cell.training or Training()).completed(self.task.defaults), learning_rate=1e-6)
        loss, optimizer = loss_of(self.task, self.problem, training.loss), Update(training, self.module.parameters())
        return Step(self.called, loss, optimizer, training.clip_norm, cell.execution)

    def latency(self, name: str) -> Latency:
        """Measure the latency of a step; on the CPU, the calibration workload is timed before and after it."""
        step = self.step(name)
        compile_seconds = _seconds(step) if self.cell.execution.compile else None
        # Deleted before memory is measured, or its tensors would count as the model's.
        calibration = None if self.device.asynchronous else calibration_step()
        before = calibration_ms(calibration) if calibration else None
        with _no_recompilation() if self.cell.execution.compile else contextlib.nullcontext():
            measured = measure_latency(step, self.cell.execution.device)
        self.settle()
        after = calibration_ms(calibration) if calibration else None
        return replace(
            measured,
            calibration_ms=(before + after) / 2 if before and after else None,
            compile_seconds=compile_seconds,
        )

    def parts(self) -> dict[str, Latency]:
        """Measure the latency of the parts of a training step, by name (:data:`PARTS`)."""
        self.step("train_step")
        step = self.train_step
        assert step is not None
        parts = (
            lambda _: step.forward(self.inputs, self.targets),
            lambda loss: step.backward(loss),
            lambda _: step.update(),
        )
        with _no_recompilation() if self.cell.execution.compile else contextlib.nullcontext():
            measured = measure_parts(parts, self.cell.execution.device)
        self.settle()
        return dict(zip(PARTS, measured))

    def graph_latency(self) -> Latency:
        """Measure a forward pass replayed from a CUDA graph: only the device's time, without launching operators."""
        return measure_latency(self.device.graph(self.step("forward")), self.device.name)

    def energy(self, name: str, meter: Meter) -> Energy:
        """Measure the energy of a step; after all that is timed, which a hot device would disturb."""
        step = self.step(name)
        with _no_recompilation() if self.cell.execution.compile else contextlib.nullcontext():
            measured = measure_energy(step, meter, self.device.synchronize)
        self.settle()
        return measured

    def memory(self, name: str) -> Memory:
        """Measure the peak memory of a step.

        Raises:
            ValueError: the module works in its own threads, in which allocations on the CPU cannot be observed.
        """
        if self.device.counter is None and not self.is_seen:
            raise ValueError("on the CPU, memory used in the model's own threads cannot be measured")
        step = self.step(name)
        self._drop_gradients()
        return measure_memory(step, self.cell.execution.device)

    def _drop_gradients(self) -> None:
        self.module.zero_grad(set_to_none=True)
        if self.train_step is not None:
            self.train_step.optimizer.zero_grad(set_to_none=True)

    @cached_property
    def is_seen(self) -> bool:
        """Whether the operators of a forward pass can be observed."""
        return is_seen(self.step("forward"))

    def flops(self) -> Flops:
        """Count the operations of a forward pass of one sample.

        Call this last, as the counter can switch torch.compile off for the rest of the process.
        """
        self.module.eval()
        one, _ = random_batch(self.problem, 1, self.cell.execution.device, self.cell.seed)
        with torch.no_grad():
            return count_flops(lambda: self.module(one))

    def recover(self) -> None:
        """Make the module usable again after a step failed halfway."""
        self._drop_gradients()
        self.module.eval()
        gc.collect()
        self.device.empty_cache()


def _seconds(step: Callable[[], object]) -> float:
    """Return how long one call takes; the first call of a compiled step compiles it."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _no_recompilation() -> contextlib.AbstractContextManager[Any]:
    """Make it an error if torch compiles in the block, as the compiler would be timed."""
    return torch.compiler.set_stance("fail_on_recompile")
