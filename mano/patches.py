"""Patches of a grid as tokens."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Patched(nn.Module):
    """Apply an operator to patches in the place of points: (B, C, H, W) -> (B, out_channels, H, W).

    A patch is one token with all of its values. As the operator's first and last maps are linear in the channels, this
    is the patch embedding of a vision transformer and a linear un-embedding. Grids that are no multiple of the patch
    are completed with zeros at the bottom and right, which are cut off again.

    Args:
        operator: maps (B, C * patch_size^2, H', W') to (B, out_channels * patch_size^2, H', W').
        patch_size: side of a patch, in points.
    """

    def __init__(self, operator: nn.Module, patch_size: int) -> None:
        super().__init__()
        self.operator, self.patch_size = operator, patch_size

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h, w = x_BCHW.shape[2:]
        x_BCHW = F.pad(x_BCHW, (0, -w % self.patch_size, 0, -h % self.patch_size))
        y_BCHW = self.operator(F.pixel_unshuffle(x_BCHW, self.patch_size))
        return F.pixel_shuffle(y_BCHW, self.patch_size)[..., :h, :w]
