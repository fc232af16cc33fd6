"""Samples as a data set for training, in memory or read from their file when they are needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from attn_bench.tasks.fields.field_file import FieldFile
from attn_bench.tasks.fields.survey import pieces
from attn_bench.tasks.shared.normalise import Batch


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
