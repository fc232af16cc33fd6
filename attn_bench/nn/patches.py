"""Patches of a grid as tokens, and the map from patch tokens back to a field."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Patched(nn.Module):
    """Apply an operator to patches instead of points: (B, C, *grid) -> (B, out_channels, *grid).

    A patch is one token with all of its values. As the operator's first and last maps are linear in the channels, this
    is the patch embedding of a vision transformer and a linear un-embedding. Grids that are not a multiple of the patch
    are padded with zeros at the bottom and right, and the result is cropped.

    Args:
        operator: maps (B, C * p, *coarse) to (B, out_channels * p, *coarse) with p points in a patch.
        patch_size: side of a patch, in points.
    """

    def __init__(self, operator: nn.Module, patch_size: int) -> None:
        super().__init__()
        self.operator, self.patch_size = operator, patch_size

    def grid(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return the patches along each axis of ``grid``."""
        return tuple(-(-n // self.patch_size) for n in grid)

    def forward(self, x: Tensor) -> Tensor:
        grid, size = x.shape[2:], self.patch_size
        if len(grid) == 1:
            x_BCN = F.pad(x, (0, -grid[0] % size))
            y_BCN = self.operator(x_BCN.unflatten(2, (-1, size)).transpose(2, 3).flatten(1, 2))
            return y_BCN.unflatten(1, (-1, size)).transpose(2, 3).flatten(2)[..., : grid[0]]
        h, w = grid
        x_BCHW = F.pad(x, (0, -w % size, 0, -h % size))
        y_BCHW = self.operator(F.pixel_unshuffle(x_BCHW, size))
        return F.pixel_shuffle(y_BCHW, size)[..., :h, :w]


class PatchUnembed(nn.Module):
    """Map tokens (B, H', W', dim) to a field (B, out_channels, H, W): one linear map per token, to its patch.

    If H or W is not a multiple of ``patch_size``, the result is cropped at the bottom and right, where the patch
    embedding padded.

    Args:
        dim: channels of a token.
        out_channels: channels of the field.
        patch_size: side of a patch, in points.
    """

    def __init__(self, dim: int, out_channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.linear = nn.Linear(dim, out_channels * patch_size**2)

    def forward(self, x_BHWC: Tensor, grid: tuple[int, int]) -> Tensor:
        y_BCHW = F.pixel_shuffle(self.linear(x_BHWC).permute(0, 3, 1, 2), self.patch_size)
        return y_BCHW[..., : grid[0], : grid[1]]
