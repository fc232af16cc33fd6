"""Features of every point of an image from the stages of a classifier of timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.heads import PointClassifier
from attn_bench.plugin import OptionError

DIM = 64


class Pyramid(nn.Module):
    """Map an image (B, C, H, W) to features (B, dim, H, W).

    The last features at each resolution of ``backbone`` pass LayerNorm and a linear map to ``dim`` channels, are
    resampled to the finest of these resolutions (bilinear) and summed, and the sum is resampled to the image. This is
    the decoder of SegFormer (arXiv:2105.15203, section 3.2) without its hidden layer.

    Args:
        backbone: a model of timm for (B, C, H, W); its classifier and last norm are removed.
        dim: channels of the features.

    Raises:
        OptionError: timm provides no intermediate features of this model.
    """

    def __init__(self, backbone: Any, dim: int) -> None:
        super().__init__()
        if not hasattr(backbone, "prune_intermediate_layers"):
            raise OptionError("timm provides no intermediate features of this model, which masks require")
        info = backbone.feature_info
        last = {stage["reduction"]: index for index, stage in enumerate(info)}
        self.indices: Sequence[int] = backbone.prune_intermediate_layers(list(last.values()), prune_norm=True)
        self.backbone: Any = backbone
        channels = [info[index]["num_chs"] for index in last.values()]
        self.norms = nn.ModuleList(nn.LayerNorm(n) for n in channels)
        self.maps = nn.ModuleList(nn.Linear(n, dim) for n in channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found = self.backbone.forward_intermediates(x_BCHW, indices=list(self.indices), intermediates_only=True)
        features = [
            linear(norm(f_BCHW.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
            for norm, linear, f_BCHW in zip(self.norms, self.maps, found, strict=True)
        ]
        finest = features[0].shape[2:]
        total = features[0]
        for coarser in features[1:]:
            total = total + F.interpolate(coarser, finest, mode="bilinear", align_corners=False)
        return F.interpolate(total, x_BCHW.shape[2:], mode="bilinear", align_corners=False)


def segmenter(backbone: nn.Module, classes: int) -> PointClassifier:
    """Return ``backbone`` with a decoder: images (B, C, H, W) to scores (B, classes, H, W).

    Raises:
        OptionError: as in :class:`Pyramid`.
    """
    return PointClassifier(Pyramid(backbone, DIM), DIM, classes)
