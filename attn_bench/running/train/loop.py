"""The training loop: AdamW, one-cycle learning rate, gradient clipping; resumable at any step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attn_bench.results.record import TrainingResult
from attn_bench.running.train.checkpoint import State, Trainee, restore, save
from attn_bench.running.train.setup import Batch, TrainingSetup
from attn_bench.sweep.groups import Execution, Precision, Training


class Diverged(Exception):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Progress:
    """Progress of training, for display."""

    fraction: float
    epoch: float
    loss: float
    seconds: float


def one_cycle(progress: float, *, warmup: float = 0.3, start: float = 25.0, end: float = 1e4) -> float:
    """Learning-rate factor at ``progress`` in [0, 1]: cosine up from 1/start to 1, cosine down to 1/(start * end).

    The policy of Smith and Topin (arXiv:1708.07120) with the constants of ``torch.optim.lr_scheduler.OneCycleLR``,
    as a function of progress, so that it works for budgets in seconds too.
    """
    if progress < warmup:
        low, high, t = 1 / start, 1.0, progress / warmup
    else:
        low, high, t = 1.0, 1 / (start * end), (min(progress, 1.0) - warmup) / (1 - warmup)
    return high + (low - high) * (1 + math.cos(math.pi * t)) / 2


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Context in which a forward pass runs in ``precision``."""
    if precision == "bf16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def train(
    setup: TrainingSetup,
    training: Training,
    execution: Execution,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 30.0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainingResult:
    """Train the module of ``setup`` in place.

    The order of the samples depends only on ``seed`` and the epoch, and a checkpoint holds everything else, so an
    interrupted run that resumes from ``checkpoint`` ends where it would have ended (budgets in epochs and steps).
    An incomplete last batch of an epoch is dropped, so that every step has the same shape.

    Raises:
        Diverged: the loss is not finite.
    """
    module, extras = setup.module, setup.extras
    size = len(setup.train)  # type: ignore[arg-type]
    batch_size = min(execution.batch_size, size)
    steps_per_epoch = size // batch_size
    total_steps = _total_steps(training, steps_per_epoch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    trainee = Trainee(module, optimizer, extras.average)
    state, warning = (State(), None) if checkpoint is None else restore(checkpoint, trainee)
    step = _Step(setup, training, execution, optimizer, _others(module, extras.first))
    losses = _Losses(state, steps_per_epoch, check_every=1 if execution.device == "cpu" else 20)
    saved = time.perf_counter()
    module.train()

    def fraction() -> float:
        return state.step / total_steps if total_steps else state.seconds / training.budget

    batches = _batches(setup.train, batch_size, seed, state.step, execution.device)
    while fraction() < 1:
        batch = extras.mix(*next(batches))
        step.train_others(state.step >= extras.first_epochs * steps_per_epoch)
        loss = step(batch, training.learning_rate * one_cycle(fraction()))
        state.step += 1
        if extras.average is not None:
            extras.average.update(module, state.step)
        if not losses.add(loss, last=state.step == total_steps):
            continue
        report(Progress(min(fraction(), 1), state.step / steps_per_epoch, _mean(state.losses), state.seconds))
        if checkpoint is not None and time.perf_counter() - saved > checkpoint_every_s:
            save(checkpoint, trainee, state)
            saved = time.perf_counter()
    step.train_others(True)
    if extras.average is not None:
        _copy(extras.average.module, module)
    return TrainingResult(state.step, state.step / steps_per_epoch, state.seconds, _mean(state.losses), warning)


def _total_steps(training: Training, steps_per_epoch: int) -> int:
    """Return the steps of the budget; 0 if it is in seconds."""
    if training.budget_unit == "epochs":
        return max(1, round(training.budget * steps_per_epoch))
    return int(training.budget) if training.budget_unit == "steps" else 0


@dataclass(frozen=True)
class _Step:
    """A step of the optimizer.

    Attributes:
        others: parameters that are frozen at first.
    """

    setup: TrainingSetup
    training: Training
    execution: Execution
    optimizer: torch.optim.Optimizer
    others: Sequence[nn.Parameter]

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Update the parameters on ``batch`` and return its loss."""
        inputs, targets = batch
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with autocast(self.execution.device, self.execution.precision):
            prediction = self.setup.module(inputs)
        loss = self.setup.loss(prediction.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.setup.module.parameters(), self.training.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def train_others(self, train: bool) -> None:
        """Set whether the parameters frozen at first are trained."""
        for parameter in self.others:
            parameter.requires_grad_(train)


class _Losses:
    """The losses of a training run, read in groups, as reading waits for the device."""

    def __init__(self, state: State, kept: int, *, check_every: int) -> None:
        self.state, self.kept, self.check_every = state, kept, check_every
        self.began = time.perf_counter() - state.seconds
        self.pending: list[Tensor] = []

    def add(self, loss: Tensor, *, last: bool) -> bool:
        """Add the loss of a step and tell whether ``state`` is up to date; raises Diverged."""
        self.pending.append(loss)
        state = self.state
        if state.step % self.check_every and not last:
            return False
        # The losses were waited for, so this is the time of finished work.
        state.losses = [*state.losses, *torch.stack(self.pending).tolist()][-self.kept :]
        self.pending.clear()
        state.seconds = time.perf_counter() - self.began
        if not all(map(math.isfinite, state.losses[-self.check_every :])):
            raise Diverged(f"the loss is {state.losses[-1]} at step {state.step}, epoch {state.step // self.kept + 1}")
        return True


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    for own, other in zip(target.state_dict().values(), source.state_dict().values(), strict=True):
        own.copy_(other)


@torch.no_grad()
def predict(
    module: nn.Module,
    dataset: Dataset[Batch],
    *,
    batch_size: int,
    precision: Precision,
    device: str,
    call: Callable[[nn.Module, Tensor], Any] = lambda module, inputs: module(inputs),
) -> Iterator[Batch]:
    """Yield (prediction, target) batches over ``dataset`` in order, in float32, on ``device``.

    Args:
        call: calls the module with a batch and returns what it returned.
    """
    module.eval()
    for inputs, targets in DataLoader(dataset, batch_size=batch_size):
        with autocast(device, precision):
            prediction = call(module, inputs.to(device))
        # Gradients are on in threads that the model started.
        yield prediction.detach().float(), targets.to(device)


def _batches(dataset: Dataset[Batch], batch_size: int, seed: int, first_step: int, device: str) -> Iterator[Batch]:
    size = len(dataset)  # type: ignore[arg-type]
    epoch, skip = divmod(first_step, size // batch_size)
    while True:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch)).tolist()
        batches = [order[i : i + batch_size] for i in range(0, size - batch_size + 1, batch_size)]
        # Its own generator, or a resumed run would draw from torch's once more than an uninterrupted one.
        loader = DataLoader(
            dataset, batch_sampler=batches[skip:], pin_memory=device == "cuda", generator=torch.Generator()
        )
        for inputs, targets in loader:
            yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        epoch, skip = epoch + 1, 0


def _others(module: nn.Module, chosen: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the trainable parameters of ``module`` that are not in ``chosen``; none if ``chosen`` is empty."""
    if not chosen:
        return []
    known = {id(parameter) for parameter in chosen}
    return [p for p in module.parameters() if p.requires_grad and id(p) not in known]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
