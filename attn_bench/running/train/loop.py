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
from attn_bench.sweep.cell import Precision, Training

Batch = tuple[Tensor, Tensor]


class Diverged(Exception):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Progress:
    """Where training is, for display."""

    fraction: float
    epoch: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class Extras:
    """What fine-tuning adds to the loop.

    Attributes:
        mix: what a batch goes through on the device before the forward pass.
        average: a running mean of the weights (``timm.utils.ModelEmaV3``), which the module is left with in the end.
        alone: parameters that are trained alone at first.
        alone_epochs: how long.
    """

    mix: Callable[[Tensor, Tensor], Batch] = lambda inputs, targets: (inputs, targets)
    average: Any = None
    alone: Sequence[nn.Parameter] = ()
    alone_epochs: float = 0.0


def one_cycle(progress: float, *, warmup: float = 0.3, start: float = 25.0, end: float = 1e4) -> float:
    """Learning-rate factor at ``progress`` in [0, 1]: cosine up from 1/start to 1, cosine down to 1/(start * end).

    The policy of Smith and Topin (arXiv:1708.07120) with the constants of ``torch.optim.lr_scheduler.OneCycleLR``,
    as a function of progress so that it serves budgets in seconds too.
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
    module: nn.Module,
    dataset: Dataset[Batch],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    settings: Training,
    *,
    seed: int,
    precision: Precision,
    device: str,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 30.0,
    extras: Extras = Extras(),
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainingResult:
    """Train ``module`` in place.

    The order of the samples depends on ``seed`` and the epoch alone, and a checkpoint holds everything else, so a run
    that was stopped and goes on from ``checkpoint`` ends where it would have ended (budgets in epochs and steps).
    An incomplete last batch of an epoch is dropped, so that every step has the same shape.

    Raises:
        Diverged: the loss is not finite.
    """
    size = len(dataset)  # type: ignore[arg-type]
    batch_size = min(settings.batch_size, size)
    steps_per_epoch = size // batch_size
    total_steps = {
        "epochs": max(1, round(settings.budget * steps_per_epoch)),
        "steps": int(settings.budget),
        "seconds": 0,
    }[settings.budget_unit]
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    trainee, warning = Trainee(module, optimiser, extras.average), None
    state = State()
    if checkpoint is not None:
        state, warning = restore(checkpoint, trainee)
    waiting = _others(module, extras.alone) if extras.alone else []
    check_every = 1 if device == "cpu" else 20
    began, saved = time.perf_counter() - state.seconds, time.perf_counter()
    module.train()

    def fraction() -> float:
        return state.step / total_steps if total_steps else state.seconds / settings.budget

    pending: list[Tensor] = []
    batches = _batches(dataset, batch_size, seed, state.step, device)
    while fraction() < 1:
        inputs, targets = extras.mix(*next(batches))
        for parameter in waiting:
            parameter.requires_grad_(state.step >= extras.alone_epochs * steps_per_epoch)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(fraction())
        with autocast(device, precision):
            prediction = module(inputs)
        loss = loss_of(prediction.float(), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
        optimiser.step()
        state.step += 1
        if extras.average is not None:
            extras.average.update(module, state.step)
        pending.append(loss.detach())
        if state.step % check_every and state.step != total_steps:
            continue
        # Reading the losses waits for the device, so the elapsed time below is that of finished work.
        state.losses += torch.stack(pending).tolist()
        pending.clear()
        state.losses = state.losses[-steps_per_epoch:]
        now = time.perf_counter()
        state.seconds = now - began
        if not all(map(math.isfinite, state.losses[-check_every:])):
            raise Diverged(
                f"the loss is {state.losses[-1]} at step {state.step}, epoch {state.step // steps_per_epoch + 1}"
            )
        report(Progress(min(fraction(), 1), state.step / steps_per_epoch, _mean(state.losses), state.seconds))
        if checkpoint is not None and now - saved > checkpoint_every_s:
            save(checkpoint, trainee, state)
            saved = time.perf_counter()
    for parameter in waiting:
        parameter.requires_grad_(True)
    if extras.average is not None:
        with torch.no_grad():
            for own, mean in zip(
                module.state_dict().values(), extras.average.module.state_dict().values(), strict=True
            ):
                own.copy_(mean)
    return TrainingResult(state.step, state.step / steps_per_epoch, state.seconds, _mean(state.losses), warning)


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
        # A thread of the model's own has gradients on.
        yield prediction.detach().float(), targets.to(device)


def _batches(dataset: Dataset[Batch], batch_size: int, seed: int, first_step: int, device: str) -> Iterator[Batch]:
    size = len(dataset)  # type: ignore[arg-type]
    epoch, skip = divmod(first_step, size // batch_size)
    while True:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch)).tolist()
        batches = [order[i : i + batch_size] for i in range(0, size - batch_size + 1, batch_size)]
        # A generator of its own, or a run that goes on would draw once more from torch's than one that never stopped.
        loader = DataLoader(
            dataset, batch_sampler=batches[skip:], pin_memory=device == "cuda", generator=torch.Generator()
        )
        for inputs, targets in loader:
            yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        epoch, skip = epoch + 1, 0


def _others(module: nn.Module, chosen: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the trainable parameters of ``module`` that are not among ``chosen``."""
    known = {id(parameter) for parameter in chosen}
    return [p for p in module.parameters() if p.requires_grad and id(p) not in known]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
