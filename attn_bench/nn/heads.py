"""Heads that map features at every point to classes of the image or of every point; the same for every model."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attn_bench.plugin import Problem


class _Classifier(nn.Module):
    """Features of an image and the head on them: LayerNorm and a linear map from ``dim`` channels to ``classes``."""

    def __init__(self, features: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)


class PooledClassifier(_Classifier):
    """Map an image (B, C, H, W) to scores (B, classes): features at every point, their mean, LayerNorm, a linear map.

    All models share this head, so that they differ only in the features.

    Args:
        features: maps (B, C, H, W) to (B, dim, H, W); kept as ``features``.
        dim: channels of the features.
        classes: number of scores.

    The linear map from normalized means to scores is the attribute ``head``, which a linear probe trains.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x_BCHW).mean((2, 3))))


class PointClassifier(_Classifier):
    """Map an image (B, C, H, W) to scores (B, classes, H, W): features at every point, LayerNorm, a linear map.

    :class:`PooledClassifier` without the mean: the decoder of every model for segmentation.

    Args:
        features: maps (B, C, H, W) to (B, dim, H, W); kept as ``features``.
        dim: channels of the features.
        classes: number of scores.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = self.features(x_BCHW).permute(0, 2, 3, 1)
        return self.head(self.norm(x_BHWC)).permute(0, 3, 1, 2)


def with_head(problem: Problem, dim: int, build: Callable[[int], nn.Module]) -> nn.Module:
    """Return a model for ``problem`` from a model of fields: itself for fields, with a head for images and masks.

    Args:
        dim: channels of the features.
        build: returns the model of fields with the given number of output channels.
    """
    match problem.spec.head:
        case "pooled":
            return PooledClassifier(build(dim), dim, problem.outputs)
        case "pointwise":
            return PointClassifier(build(dim), dim, problem.outputs)
        case _:
            return build(problem.outputs)
