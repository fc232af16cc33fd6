"""Normalization around a model of fields: it sees and predicts channels of mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

Batch = tuple[Tensor, Tensor]
# Statistics are summed over about so many numbers at a time, whether they are in memory or in a file.
BLOCK = 1 << 20


class Normalised(nn.Module):
    """``module`` between normalization of its input and the inverse of that of its target.

    Input and output are physical fields, (B, C, *grid) -> (B, C', *grid), at any resolution that ``module`` accepts.

    Args:
        module: the model.
        input_mean, input_std: per channel, shape (C,).
        target_mean, target_std: per channel, shape (C',).
        axes: number of axes of the grid.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        module: nn.Module,
        input_mean: Tensor,
        input_std: Tensor,
        target_mean: Tensor,
        target_std: Tensor,
        *,
        axes: int = 2,
    ) -> None:
        super().__init__()
        self.module = module
        statistics = {
            "input_mean": input_mean,
            "input_std": input_std,
            "target_mean": target_mean,
            "target_std": target_std,
        }
        for name, value in statistics.items():
            self.register_buffer(name, value.reshape(-1, *[1] * axes).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map physical input to physical output."""
        return self.module((x - self.input_mean) / self.input_std) * self.target_std + self.target_mean


class MaskedNormalised(Normalised):
    """The same where inputs are NaN at masked points: ``module`` sees zeros there."""

    def forward(self, x: Tensor) -> Tensor:
        """Map physical input to physical output; what is predicted at masked points has no meaning."""
        x = (x - self.input_mean) / self.input_std
        return self.module(x.masked_fill(x.isnan(), 0.0)) * self.target_std + self.target_mean


def normalise(module: nn.Module, train: Dataset[Batch]) -> Normalised:
    """Wrap ``module`` with mean and standard deviation of each channel over all samples and points of the training set.

    A channel that is constant gets the standard deviation 1. Points that are NaN are masked and do not count. Samples,
    (C, *grid) each, are read in pieces.
    """
    means, stds, masked = statistics(train)
    kind = MaskedNormalised if masked else Normalised
    axes = train[0][0].ndim - 1
    return kind(module, means[0], stds[0], means[1], stds[1], axes=axes)


def statistics(train: Dataset[Batch]) -> tuple[list[Tensor], list[Tensor], bool]:
    """Return means and standard deviations, (C,) each, of inputs and of targets, and whether points are masked."""
    size, read = len(cast(TensorDataset, train)), reader(train)
    first = read(torch.tensor([0]))
    axes, count = first[0].ndim - 2, max(1, BLOCK // sum(values.numel() for values in first))
    pieces = [torch.arange(start, min(start + count, size)) for start in range(0, size, count)]
    sums, points = _sums(read, pieces, lambda values, _: values)
    means = [total / own for total, own in zip(sums, points)]
    # A second pass, as the difference of large numbers would be inexact.
    squares, _ = _sums(read, pieces, lambda values, i: (values - means[i].reshape(-1, *[1] * axes)).square())
    stds = [(square / own).sqrt() for square, own in zip(squares, points)]
    # Relative to the mean, as the sum of equal numbers may be inexact.
    stds = [torch.where(std > 1e-12 * mean.abs(), std, 1.0) for mean, std in zip(means, stds)]
    masked = min(int(own.min()) for own in points) < size * first[0][0, 0].numel()
    return means, stds, masked


def _sums(
    read: Callable[[Tensor], Batch], pieces: list[Tensor], of: Callable[[Tensor, int], Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the sums over samples and points of ``of(values, i)``, of inputs (i = 0) and targets (1), per channel.

    Also return how many points there are, without those that are NaN.
    """
    totals: list[Any] = [0.0, 0.0]
    counts: list[Any] = [0, 0]
    for piece in pieces:
        for i, values in enumerate(read(piece)):
            found, over = of(values.double(), i), (0, *range(2, values.ndim))
            masked = found.isnan()
            totals[i] = totals[i] + found.masked_fill(masked, 0.0).sum(over)
            counts[i] = counts[i] + (~masked).sum(over)
    return totals, counts


def reader(dataset: Any) -> Callable[[Tensor], Batch]:
    """Return what reads the samples of some indices as one batch."""
    if isinstance(dataset, TensorDataset):
        inputs, targets = dataset.tensors
        return lambda indices: (inputs[indices], targets[indices])
    if isinstance(dataset, Subset):
        whole, chosen = reader(dataset.dataset), torch.as_tensor(dataset.indices)
        return lambda indices: whole(chosen[indices])
    if hasattr(dataset, "batch"):
        return dataset.batch
    return lambda indices: tuple(map(torch.stack, zip(*(dataset[int(i)] for i in indices))))  # type: ignore[return-value]
