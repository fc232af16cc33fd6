"""Noise on the inputs of training samples."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from attn_bench.tasks.shared.normalise import Batch, reader


class Noisy(Dataset[Batch]):
    """Samples with Gaussian noise on their inputs, drawn anew each time.

    Args:
        plain: the samples, (C, *grid) and targets.
        std: of the noise on each channel, (C,).
    """

    def __init__(self, plain: Dataset[Batch], std: Tensor) -> None:
        self.plain, self.std, self._read = plain, std, reader(plain)

    def __len__(self) -> int:
        return len(cast(TensorDataset, self.plain))

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self.batch(torch.tensor([range(len(self))[index]]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples ``indices``, (k, C, *grid) and targets."""
        inputs, targets = self._read(indices)
        std = self.std.to(inputs).reshape(-1, *[1] * (inputs.ndim - 2))
        return inputs + std * torch.randn_like(inputs), targets
