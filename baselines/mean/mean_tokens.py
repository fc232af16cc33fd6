"""Scores of tokens that do not depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class MeanTokens(nn.Module):
    """Map any tokens (B, N) to the same scores (B, N, outputs) everywhere: zero until fitted."""

    scores: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros(outputs))

    def forward(self, tokens_BN: Tensor) -> Tensor:
        return self.scores.expand(*tokens_BN.shape, len(self.scores))

    def fit(self, train: Dataset[tuple[Tensor, Tensor]]) -> None:
        """Set the scores to the log-probabilities of the targets of ``train``; negative targets do not count.

        Every count is increased by one (Laplace), or a token that is not in ``train`` would have infinite loss.
        """
        size = len(self.scores)
        counts = torch.ones(size, dtype=torch.float64)
        for _, targets in DataLoader(train, batch_size=64):
            counts += torch.bincount(targets[targets >= 0], minlength=size)
        self.scores.copy_((counts / counts.sum()).log())
