"""Coordinates of the points of a grid, as channels or as waves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def sinusoids(grid: tuple[int, ...], dim: int, like: Tensor) -> Tensor:
    r"""Return waves in the index of each point along each axis, (\*grid, dim), of the type and device of ``like``.

    The fixed positions of Beyer et al., arXiv:2205.01580: for each axis as many sines and cosines, of wavelengths from
    2 pi to 10,000 times that; channels that remain are 0.
    """
    count = dim // (2 * len(grid))
    rates = 10_000.0 ** -(torch.arange(count, device=like.device) / max(count - 1, 1))
    waves = []
    for axis, size in enumerate(grid):
        angles = torch.arange(size, device=like.device).unsqueeze(1) * rates
        shape = [size if each == axis else 1 for each in range(len(grid))]
        waves.append(torch.cat([angles.sin(), angles.cos()], 1).view(*shape, 2 * count).expand(*grid, 2 * count))
    positions = torch.cat(waves, -1)
    return F.pad(positions, (0, dim - positions.shape[-1])).to(like.dtype)
