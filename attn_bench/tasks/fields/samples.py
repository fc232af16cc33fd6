"""Samples as a data set for training, in memory or read from their file when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from attn_bench.tasks.fields.field_file import FieldFile
from attn_bench.tasks.fields.survey import pieces
from attn_bench.tasks.shared.normalise import Normalised

Batch = tuple[Tensor, Tensor]
# Statistics are summed over about so many numbers at a time, whether they are in memory or in a file.
BLOCK = 1 << 20


class FromFile(Dataset[Batch]):
    """Samples that are read when they are needed.

    Args:
        file: that has them.
        numbers: of the samples in the file.
        stride: of the points that are taken of the grid.
    """

    def __init__(self, file: FieldFile, numbers: np.ndarray, stride: int = 1) -> None:
        self.file, self.numbers, self.stride = file, numbers, stride

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self.batch(torch.tensor([range(len(self))[index]]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples ``indices`` in this order, (k, C, *grid) each; neighbors in the file are read at once."""
        numbers = self.numbers[indices.numpy()]
        order = np.argsort(numbers, kind="stable")
        back = np.argsort(order, kind="stable")
        inputs, targets = (torch.from_numpy(each) for each in self.file.read(numbers[order], self.stride))
        return inputs[back], targets[back]


def in_memory(file: FieldFile, numbers: np.ndarray, stride: int) -> TensorDataset:
    """Return samples as tensors in memory."""
    grid = tuple(-(-n // stride) for n in file.grid)
    found = [torch.empty((len(numbers), count, *grid)) for count in file.channels]
    place = 0
    for part, *both in pieces(file, numbers, stride):
        for whole, values in zip(found, both):
            whole[place : place + len(part)] = torch.from_numpy(values)
        place += len(part)
    return TensorDataset(*found)


class NormalisedFields(Normalised):
    """Normalization around a model, for grids of any number of axes; see :class:`Normalised`."""

    def __init__(self, module: nn.Module, axes: int, *statistics: Tensor) -> None:
        super().__init__(module, *statistics)
        for name in ("input_mean", "input_std", "target_mean", "target_std"):
            setattr(self, name, getattr(self, name).reshape(-1, *[1] * axes))


def normalised(module: nn.Module, train: Dataset[Batch]) -> NormalisedFields:
    """Wrap ``module`` with mean and standard deviation of each channel of the training set, read in pieces."""
    size, read = len(cast(TensorDataset, train)), _reader(train)
    first = read(torch.tensor([0]))
    axes, count = first[0].ndim - 2, max(1, BLOCK // sum(values.numel() for values in first))
    sums: list[Tensor] = []
    for start in range(0, size, count):
        both = read(torch.arange(start, min(start + count, size)))
        found = [values.double().sum((0, *range(2, values.ndim))) for values in both]
        sums = found if not sums else [a + b for a, b in zip(sums, found)]
    points = size * first[0][0, 0].numel()
    means = [each / points for each in sums]
    # A second pass, as the difference of large numbers would be inexact.
    squares = [torch.zeros_like(mean) for mean in means]
    for start in range(0, size, count):
        for values, mean, square in zip(read(torch.arange(start, min(start + count, size))), means, squares):
            away = values.double() - mean.reshape(-1, *[1] * axes)
            square += away.square().sum((0, *range(2, values.ndim)))
    stds = [(square / points).sqrt() for square in squares]
    # A channel that is constant gets 1; relative to the mean, as the sum of equal numbers may be inexact.
    stds = [torch.where(std > 1e-12 * mean.abs(), std, 1.0) for mean, std in zip(means, stds)]
    return NormalisedFields(module, axes, means[0], stds[0], means[1], stds[1])


def _reader(dataset: Dataset[Batch]) -> Callable[[Tensor], Batch]:
    """Return what reads the samples of some indices as one batch."""
    if isinstance(dataset, TensorDataset):
        inputs, targets = dataset.tensors
        return lambda indices: (inputs[indices], targets[indices])
    if isinstance(dataset, Subset):
        whole, chosen = _reader(dataset.dataset), torch.as_tensor(dataset.indices)
        return lambda indices: whole(chosen[indices])
    return cast(FromFile, dataset).batch
