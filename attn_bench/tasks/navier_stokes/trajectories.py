"""Trajectories as samples for training: some states, and the one that follows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Every run of ``history`` states of each trajectory, with the next ``following`` states as the target.

    Args:
        trajectories: (N, T, H, W), T >= history + following.
        noise: standard deviation of Gaussian noise that is added to the states given, drawn anew each time.
        following: states in the target.
    """

    def __init__(self, trajectories: Tensor, history: int, noise: float = 0.0, following: int = 1) -> None:
        self.trajectories, self.history, self.noise, self.following = trajectories, history, noise, following
        self.each = trajectories.shape[1] - history - following + 1

    def __len__(self) -> int:
        return len(self.trajectories) * self.each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (B, history, H, W) and targets (B, following, H, W)."""
        which, first = indices // self.each, indices % self.each
        states = self.trajectories[which[:, None], first[:, None] + torch.arange(self.history + self.following)]
        known, following = states.tensor_split((self.history,), 1)
        return (known + self.noise * torch.randn_like(known) if self.noise else known), following
