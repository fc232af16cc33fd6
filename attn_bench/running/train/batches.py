"""Batches of a dataset: those of a training, in an order that only the seed and the epoch decide, and predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from attn_bench.running.device.select import device_of
from attn_bench.running.train.step import Batch, autocast
from attn_bench.sweep.groups import Precision

Read = Callable[[Tensor], Batch]
# Of the processes that read data for a GPU ahead of time, at most.
WORKERS = 4


def reader(dataset: Dataset[Batch]) -> Read | None:
    """Return what reads the samples of some indices, an integer tensor, as one batch; None if they are read one by one.

    That is possible for a ``TensorDataset``, a dataset that has a method ``batch`` of that form, and a ``Subset`` of
    either.
    """
    if type(dataset) is TensorDataset:
        inputs, targets = dataset.tensors
        return lambda indices: (inputs.index_select(0, indices), targets.index_select(0, indices))
    if type(dataset) is Subset:
        whole, chosen = reader(dataset.dataset), torch.as_tensor(dataset.indices)
        return None if whole is None else lambda indices: whole(chosen[indices])
    return getattr(dataset, "batch", None)


def batches(
    dataset: Dataset[Batch], batch_size: int, seed: int, first_step: int, device: str, workers: int | None = None
) -> Iterator[Batch]:
    """Yield the batches of training from ``first_step`` on, without end, on ``device``.

    An incomplete last batch of an epoch is dropped, so that every step has the same shape. Data in memory are read
    with one index per batch. Others are read sample by sample, for a GPU in processes of their own, ahead of time; what
    a sample draws from torch's generator depends on the seed, the epoch and its index only.

    Args:
        workers: number of such processes [none on the CPU, whose cores train].
    """
    read, at = reader(dataset), device_of(device)
    pin, place = at.asynchronous, at.tensors
    order = _order(len(dataset), batch_size, seed, first_step)  # type: ignore[arg-type]
    if read is not None:
        found = (read(torch.tensor(indices)) for _, indices in order)
    else:
        seeded = ([(epoch, index) for index in indices] for epoch, indices in order)
        count = min(WORKERS, max(1, _cores() - 1)) if workers is None and pin else workers or 0
        # With its own generator: a loader draws from torch's whenever it begins, as a resumed training does.
        found = iter(
            DataLoader(
                _Seeded(dataset, seed),
                batch_sampler=seeded,  # type: ignore[arg-type]
                num_workers=count,
                pin_memory=pin,
                generator=torch.Generator(),
            )
        )
    for inputs, targets in found:
        yield inputs.to(place, non_blocking=True), targets.to(place, non_blocking=True)


def _order(size: int, batch_size: int, seed: int, first_step: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the epoch and the indices of one batch after the other."""
    epoch, skip = divmod(first_step, size // batch_size)
    while True:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(_mixed(seed, epoch))).tolist()
        for start in range(skip * batch_size, size - batch_size + 1, batch_size):
            yield epoch, order[start : start + batch_size]
        epoch, skip = epoch + 1, 0


class _Seeded(Dataset[Batch]):
    """A dataset whose samples draw what their epoch and index say, in whichever process they are read."""

    def __init__(self, dataset: Dataset[Batch], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(_mixed(_mixed(self.seed, epoch), index) % 2**63)
        try:
            return self.dataset[index]
        finally:
            torch.set_rng_state(before)


def _mixed(seed: int, number: int) -> int:
    return 1_000_003 * seed + number


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        call: calls the module with a batch and returns its output.
    """
    module.eval()
    place = device_of(device).tensors
    for inputs, targets in in_order(dataset, batch_size):
        with autocast(device, precision):
            prediction = call(module, inputs.to(place))
        # Gradients are on in threads that the model started.
        yield prediction.detach().float(), targets.to(place)


def rolled_out(
    call: Callable[[nn.Module, Tensor], Any], steps: int, module: nn.Module, inputs: Tensor, *, fixed: int = 0
) -> Tensor:
    """Return ``steps`` states, (B, steps * outputs, *grid), each predicted from the last ones known or predicted.

    Args:
        call: returns the next state, (B, outputs, *grid).
        inputs: the states known, oldest first, and the channels that do not change in time, (B, inputs, *grid).
        fixed: how many the latter are.
    """
    states: list[Tensor] = []
    for _ in range(steps):
        states.append(call(module, inputs).to(inputs.dtype))
        inputs = followed_by(inputs, states[-1], fixed=fixed)
    return torch.cat(states, 1)


def followed_by(inputs: Tensor, states: Tensor, *, fixed: int = 0) -> Tensor:
    """Return inputs, (B, inputs, *grid), with ``states``, (B, channels, *grid), in the place of the oldest ones.

    Points that are NaN, which are masked, remain so. The last ``fixed`` channels do not change.
    """
    known = inputs.shape[1] - fixed
    masked = inputs[:, :1].isnan()
    followed = torch.cat((inputs[:, :known], states.masked_fill(masked, torch.nan)), 1)[:, -known:]
    return torch.cat((followed, inputs[:, known:]), 1)


def in_order(dataset: Dataset[Batch], batch_size: int) -> Iterator[Batch]:
    """Yield every sample of ``dataset`` once, in batches, drawing nothing from torch's generator for it."""
    read, size = reader(dataset), len(dataset)  # type: ignore[arg-type]
    if read is None:
        yield from DataLoader(dataset, batch_size=batch_size, generator=torch.Generator())
    else:
        yield from (read(torch.arange(i, min(i + batch_size, size))) for i in range(0, size, batch_size))
