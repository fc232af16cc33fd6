"""From features at every point to classes, of the image or of every point; the same for every model."""

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

    The same head for every model, so that only what makes the features differs.

    Args:
        features: maps (B, C, H, W) to (B, dim, H, W); kept as ``features``.
        dim: channels of the features.
        classes: number of scores.

    The linear map, from normalized means to scores, is kept as ``head``: it is what a linear probe trains.
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
    """Return a model of fields for ``problem``: itself for a field, its features below a head for an image or a mask.

    Args:
        dim: channels of the features.
        build: returns the model of fields with as many output channels as it is told.
    """
    match problem.spec.head:
        case "pooled":
            return PooledClassifier(build(dim), dim, problem.outputs)
        case "pointwise":
            return PointClassifier(build(dim), dim, problem.outputs)
        case _:
            return build(problem.outputs)
