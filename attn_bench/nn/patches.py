"""Coordinates, and the way back from patch tokens to a field."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def append_coordinates(x_BCHW: Tensor) -> Tensor:
    """Append two channels, the row and the column of each point, from 0 to 1 along its axis (0 on an axis of 1)."""
    b, _, h, w = x_BCHW.shape
    rows = torch.linspace(0, 1, h, dtype=x_BCHW.dtype, device=x_BCHW.device)
    columns = torch.linspace(0, 1, w, dtype=x_BCHW.dtype, device=x_BCHW.device)
    grid_2HW = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([x_BCHW, grid_2HW.expand(b, 2, h, w)], 1)


class PatchUnembed(nn.Module):
    """Map tokens (B, H', W', dim) to a field (B, out_channels, H, W): one linear map a token, to its patch.

    What reaches beyond ``grid``, where H or W is no multiple of ``patch_size``, is cut off at the bottom and right,
    where the patch embedding padded.

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
