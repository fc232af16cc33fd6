"""The training loop, resumable at any step."""

from __future__ import annotations

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
from attn_bench.running.train.optimizer import make_optimizer
from attn_bench.running.train.schedule import learning_rate
from attn_bench.running.train.setup import TrainingSetup
from attn_bench.running.train.step import Batch, Step, as_called, autocast
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
    parameters = list(module.parameters())
    optimizer = make_optimizer(training, parameters)
    average = _average(module, training.ema)
    trainee = Trainee(module, optimizer, average)
    state, warning = (State(), None) if checkpoint is None else restore(checkpoint, trainee)
    step = Step(as_called(module, execution), setup.loss, optimizer, parameters, training.clip_norm, execution)
    others = _others(module, extras.first)
    losses = _Losses(state, steps_per_epoch, check_every=1 if execution.device == "cpu" else 20)
    saved = time.perf_counter()
    module.train()

    def fraction() -> float:
        return state.step / total_steps if total_steps else state.seconds / training.budget

    batches = _batches(setup.train, batch_size, seed, state.step, execution.device)
    while fraction() < 1:
        batch = extras.mix(*next(batches))
        _train(others, state.step >= extras.first_epochs * steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, fraction())
        loss = step(*batch)
        state.step += 1
        if average is not None:
            average.update(module, state.step)
        if not losses.add(loss, last=state.step == total_steps):
            continue
        report(Progress(min(fraction(), 1), state.step / steps_per_epoch, _mean(state.losses), state.seconds))
        if checkpoint is not None and time.perf_counter() - saved > checkpoint_every_s:
            save(checkpoint, trainee, state)
            saved = time.perf_counter()
    _train(others, True)
    if average is not None:
        _copy(average.module, module)
    return TrainingResult(
        state.step, state.step / steps_per_epoch, state.seconds, loss=_mean(state.losses), warning=warning
    )


def _total_steps(training: Training, steps_per_epoch: int) -> int:
    """Return the steps of the budget; 0 if it is in seconds."""
    if training.budget_unit == "epochs":
        return max(1, round(training.budget * steps_per_epoch))
    return int(training.budget) if training.budget_unit == "steps" else 0


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


def _train(parameters: Sequence[nn.Parameter], train: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(train)


def _average(module: nn.Module, decay: float) -> Any:
    """Return a running mean of the weights of ``module`` (``timm.utils.ModelEmaV3``), or None without decay."""
    if not decay:
        return None
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(module, decay=decay, use_warmup=True)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
