"""How the cells of grids are laid out for attention: tiles without overlap, or overlapping windows.

Axes in names: B batch, H W grid, C or F channels, P cells of a block or window (row by row), M blocks or windows of all
samples, T cells of all samples. Where blocks or windows reach beyond the grid, it is at the lower and right end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mano.levels import Grid, ceil_div, window_counts


def to_blocks(x_BHWC: Tensor, size: int) -> Tensor:
    """Cut a grid into size x size blocks, (B, H, W, C) -> (P, M, C) with M = B * rows * columns; added cells are 0."""
    b, h, w, c = x_BHWC.shape
    rows, columns = ceil_div(h, size), ceil_div(w, size)
    if (h, w) != (rows * size, columns * size):
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, columns * size - w, 0, rows * size - h))
    split = x_BHWC.view(b, rows, size, columns, size, c)
    return split.permute(2, 4, 0, 1, 3, 5).reshape(size * size, b * rows * columns, c)


def from_blocks(x_PMC: Tensor, size: int, batch: int, grid: Grid) -> Tensor:
    """Undo :func:`to_blocks`, dropping the added cells: (P, M, C) -> (B, H, W, C)."""
    (h, w), c = grid, x_PMC.shape[-1]
    rows, columns = ceil_div(h, size), ceil_div(w, size)
    split = x_PMC.reshape(size, size, batch, rows, columns, c)
    x_BHWC = split.permute(2, 3, 0, 4, 1, 5).reshape(batch, rows * size, columns * size, c)
    return x_BHWC[:, :h, :w]


def to_windows(x_FBHW: Tensor, size: int, stride: int) -> Tensor:
    """Copy cells into overlapping windows: (F, B, H, W) -> (F, P, M). Added cells are zero."""
    h, w = x_FBHW.shape[2:]
    rows, columns = window_counts((h, w), size, stride)
    x = F.pad(x_FBHW, (0, _extent(columns, size, stride) - w, 0, _extent(rows, size, stride) - h))
    x = x.unfold(2, size, stride).unfold(3, size, stride)  # F, B, rows, columns, size, size
    return x.permute(0, 4, 5, 1, 2, 3).flatten(3).flatten(1, 2)


def from_windows(x_FPM: Tensor, size: int, stride: int, batch: int, grid: Grid) -> Tensor:
    """Average over the windows that hold a cell, dropping the added cells: (F, P, M) -> (F, B, H, W)."""
    f, (h, w) = len(x_FPM), grid
    rows, columns = window_counts(grid, size, stride)
    extent = (_extent(rows, size, stride), _extent(columns, size, stride))
    x = x_FPM.unflatten(2, (batch, -1)).transpose(1, 2).flatten(0, 1)  # F * B, P, rows * columns
    total = F.fold(x, extent, size, stride=stride).view(f, batch, *extent)
    coverage = F.fold(x.new_ones(1, *x.shape[1:]), extent, size, stride=stride)
    return (total / coverage)[..., :h, :w]


def real_cells(size: int, stride: int, batch: int, grid: Grid, device: torch.device) -> Tensor:
    """Return which cells of the windows lie on the grid, (P, M)."""
    rows, columns = (
        torch.arange(size, device=device)[:, None] + stride * torch.arange(count, device=device)[None, :] < n
        for n, count in zip(grid, window_counts(grid, size, stride), strict=True)
    )
    real = rows[:, None, :, None] & columns[None, :, None, :]  # size, size, rows, columns
    return real.view(size * size, 1, -1).expand(-1, batch, -1).flatten(1)


def fits(size: int, stride: int, grid: Grid) -> bool:
    """Tell whether the windows end where the grid does."""
    return all(_extent(m, size, stride) == n for n, m in zip(grid, window_counts(grid, size, stride), strict=True))


def _extent(count: int, size: int, stride: int) -> int:
    return (count - 1) * stride + size
