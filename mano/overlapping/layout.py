"""The cells of grids as windows that may overlap.

Axes in names: B batch, H W grid, F channels, P cells of a window (row by row), M windows of all samples. Windows reach
beyond the grid only at the bottom and right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mano.levels import Grid, ceil_div, level_grids, window_counts


class Windows(NamedTuple):
    """The windows of all levels; T tokens are those of the levels one after the other, each (B, H, W) row by row.

    Attributes:
        batch: samples.
        height, width: of the finest level, in cells.
        levels: number of levels.
        rate: factor between the grids of two levels.
        heads: attention heads.
        window_size: side of a window, in cells.
        stride: distance between windows, in cells.
    """

    batch: int
    height: int
    width: int
    levels: int
    rate: int
    heads: int
    window_size: int
    stride: int

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grid of every level, finest first."""
        return level_grids((self.height, self.width), self.window_size, self.rate, self.levels)

    @property
    def slots(self) -> int:
        """Maximum number of windows along one axis that contain the same cell."""
        return ceil_div(self.window_size, self.stride)

    def split(self, x_TF: Tensor) -> Tensor:
        """Lay tokens out in windows, copying those in several windows: (T, F) -> (F, P, M)."""
        parts = []
        for x, grid in zip(x_TF.split([self.batch * h * w for h, w in self.grids]), self.grids, strict=True):
            x_FBHW = x.view(self.batch, *grid, -1).permute(3, 0, 1, 2)
            parts.append(to_windows(x_FBHW, self.window_size, self.stride))
        return torch.cat(parts, 2)

    def join(self, x_FPM: Tensor) -> Tensor:
        """Sum over the windows that contain a token: (F, P, M) -> (T, F)."""
        counts = [self.batch * math.prod(window_counts(grid, self.window_size, self.stride)) for grid in self.grids]
        parts = [
            sum_windows(x, self.window_size, self.stride, self.batch, grid).flatten(1)
            for x, grid in zip(x_FPM.split(counts, 2), self.grids, strict=True)
        ]
        return torch.cat(parts, 1).t().contiguous()

    def coverage(self, like: Tensor) -> Tensor:
        """Return how many windows contain each token, (T, 1)."""
        counts = [
            coverage(self.window_size, self.stride, grid, like).flatten().repeat(self.batch) for grid in self.grids
        ]
        return torch.cat(counts)[:, None]

    def real(self, device: torch.device) -> Tensor | None:
        """Return which cells of the windows are on the grids, (P, M), or None if all are."""
        if all(fits(self.window_size, self.stride, grid) for grid in self.grids):
            return None
        masks = [real_cells(self.window_size, self.stride, self.batch, grid, device) for grid in self.grids]
        return torch.cat(masks, 1)


def to_windows(x_FBHW: Tensor, size: int, stride: int) -> Tensor:
    """Copy cells into overlapping windows: (F, B, H, W) -> (F, P, M). Added cells are zero."""
    h, w = x_FBHW.shape[2:]
    rows, columns = window_counts((h, w), size, stride)
    x = F.pad(x_FBHW, (0, _extent(columns, size, stride) - w, 0, _extent(rows, size, stride) - h))
    x = x.unfold(2, size, stride).unfold(3, size, stride)  # F, B, rows, columns, size, size
    return x.permute(0, 4, 5, 1, 2, 3).flatten(3).flatten(1, 2)


def sum_windows(x_FPM: Tensor, size: int, stride: int, batch: int, grid: Grid) -> Tensor:
    """Sum over the windows that contain a cell, dropping the added cells: (F, P, M) -> (F, B, H, W)."""
    f, (h, w) = len(x_FPM), grid
    rows, columns = window_counts(grid, size, stride)
    extent = (_extent(rows, size, stride), _extent(columns, size, stride))
    x = x_FPM.unflatten(2, (batch, -1)).transpose(1, 2).flatten(0, 1)  # F * B, P, rows * columns
    return F.fold(x, extent, size, stride=stride).view(f, batch, *extent)[..., :h, :w]


def coverage(size: int, stride: int, grid: Grid, like: Tensor) -> Tensor:
    """Return how many windows contain each cell, (H, W)."""
    counts = []
    for n, windows in zip(grid, window_counts(grid, size, stride), strict=True):
        first = stride * torch.arange(windows, device=like.device)
        cell = torch.arange(n, device=like.device)[:, None]
        counts.append(((cell >= first) & (cell < first + size)).sum(1).to(like.dtype))
    return counts[0][:, None] * counts[1]


def real_cells(size: int, stride: int, batch: int, grid: Grid, device: torch.device) -> Tensor:
    """Return which cells of the windows are on the grid, (P, M)."""
    rows, columns = (
        torch.arange(size, device=device)[:, None] + stride * torch.arange(count, device=device)[None, :] < n
        for n, count in zip(grid, window_counts(grid, size, stride), strict=True)
    )
    real = rows[:, None, :, None] & columns[None, :, None, :]  # size, size, rows, columns
    return real.view(size * size, 1, -1).expand(-1, batch, -1).flatten(1)


def fits(size: int, stride: int, grid: Grid) -> bool:
    """Tell whether the windows end exactly at the edge of the grid."""
    return all(_extent(m, size, stride) == n for n, m in zip(grid, window_counts(grid, size, stride), strict=True))


def _extent(count: int, size: int, stride: int) -> int:
    return (count - 1) * stride + size
