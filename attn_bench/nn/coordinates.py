"""Coordinates of the points of a grid as channels."""

from __future__ import annotations

import torch
from torch import Tensor


def append_coordinates(x: Tensor) -> Tensor:
    """Append one channel for each axis of the grid, from 0 to 1 along it (0 on an axis of one point).

    Args:
        x: (B, C, H, W) or (B, C, N).

    Returns:
        (B, C + 2, H, W), with the row and the column of each point, or (B, C + 1, N).
    """
    b, _, *grid = x.shape
    axes = [torch.linspace(0, 1, n, dtype=x.dtype, device=x.device) for n in grid]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([x, coordinates.expand(b, *coordinates.shape)], 1)
