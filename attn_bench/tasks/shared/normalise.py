"""Normalization around a model of fields: it sees and predicts channels of mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset


class Normalised(nn.Module):
    """``module`` between normalization of its input and the inverse of that of its target.

    Input and output are physical fields, (B, C, H, W) -> (B, C', H, W), at any resolution that ``module`` accepts.

    Args:
        module: the model.
        input_mean, input_std: per channel, shape (C,).
        target_mean, target_std: per channel, shape (C',).
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, module: nn.Module, input_mean: Tensor, input_std: Tensor, target_mean: Tensor, target_std: Tensor
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
            self.register_buffer(name, value.reshape(-1, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map physical input to physical output."""
        return self.module((x - self.input_mean) / self.input_std) * self.target_std + self.target_mean


def channel_statistics(fields: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel of (N, C, H, W), over samples and points.

    A channel that is constant gets the standard deviation 1.
    """
    values = fields.double()
    mean = values.mean((0, 2, 3))
    std = values.std((0, 2, 3), correction=0)
    # Relative to the mean, as the sum of equal numbers may be inexact.
    return mean, torch.where(std > 1e-12 * mean.abs(), std, 1.0)


def normalise(module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> Normalised:
    """Wrap ``module`` with the statistics of the training set."""
    if isinstance(train, TensorDataset):
        inputs, targets = train.tensors
    else:
        items = [train[i] for i in range(len(cast(TensorDataset, train)))]
        inputs, targets = (torch.stack(tensors) for tensors in zip(*items))
    return Normalised(module, *channel_statistics(inputs), *channel_statistics(targets))
