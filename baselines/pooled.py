"""From a model of fields to a classifier of images."""

from __future__ import annotations

from torch import Tensor, nn


class PooledClassifier(nn.Module):
    """Map an image (B, C, H, W) to scores (B, classes): features at every point, their mean, LayerNorm, a linear map.

    The same head for every model, so that only what makes the features differs.

    Args:
        features: maps (B, C, H, W) to (B, dim, H, W); kept as ``features``.
        dim: channels of the features.
        classes: number of scores.

    The linear map, from normalised means to scores, is kept as ``head``: it is what a linear probe trains.
    """

    def __init__(self, features: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x_BCHW).mean((2, 3))))
