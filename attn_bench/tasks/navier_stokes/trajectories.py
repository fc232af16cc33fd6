"""Trajectories as samples for training: some states, and the one that follows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Every run of ``history`` states of each trajectory, with the next state as the target.

    Args:
        trajectories: (N, T, H, W), T > history.
        noise: standard deviation of Gaussian noise that is added to the states given, drawn anew each time.
    """

    def __init__(self, trajectories: Tensor, history: int, noise: float = 0.0) -> None:
        self.trajectories, self.history, self.noise = trajectories, history, noise
        self.each = trajectories.shape[1] - history

    def __len__(self) -> int:
        return len(self.trajectories) * self.each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (B, history, H, W) and targets (B, 1, H, W)."""
        which, first = indices // self.each, indices % self.each
        states = self.trajectories[which[:, None], first[:, None] + torch.arange(self.history + 1)]
        known, following = states[:, :-1], states[:, -1:]
        return (known + self.noise * torch.randn_like(known) if self.noise else known), following
