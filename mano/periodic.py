"""Multipole attention on grids with periodic axes: windows and the cells of D go on at the opposite edge.

It makes a difference where windows overlap or reach beyond the grid, and where a side is not a multiple of the rate of
D. Elsewhere the grid is as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mano import reference
from mano.levels import Grid, ceil_div

if TYPE_CHECKING:
    from mano.attention import MultipoleAttention

Periodic = tuple[bool, ...]


def wraps(module: MultipoleAttention, grids: tuple[Grid, ...]) -> bool:
    """Tell whether any window or any coarse cell of these levels goes on at the opposite edge."""
    windows = any(_windows_end(module, grid) != grid for grid in grids)
    return windows or any(_cells_end(module, grid) != grid for grid in grids[:-1])


def attend(module: MultipoleAttention, x_BHWC: Tensor, dropping: bool) -> Tensor:
    """A: attention in windows, of which those at the last cells of a periodic axis go on at its first.

    As many windows begin along a periodic axis as ``stride`` fits into it, rounded up; the outputs of a cell are
    averaged over all windows that contain it.
    """
    grid = (x_BHWC.shape[1], x_BHWC.shape[2])
    end = _windows_end(module, grid)
    extended = _extended(x_BHWC, end)
    if module.backend == "reference":
        out = reference.attend(module, extended.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    else:
        out = module.attend_alone(extended, dropping)
    for axis, (n, last) in enumerate(zip(grid, end, strict=True), 1):
        if last > n:
            out = _folded(out, axis, n, module.window_size, module.stride)
    return out


def coarser(module: MultipoleAttention, x_BHWC: Tensor, level: int) -> Tensor:
    """D: a coarse cell at the end of a periodic axis that is not whole takes the first cells as well."""
    grid = (x_BHWC.shape[1], x_BHWC.shape[2])
    return module.coarser(_extended(x_BHWC, _cells_end(module, grid)), level)


def _windows_end(module: MultipoleAttention, grid: Grid) -> Grid:
    """Return where the last windows end, along each axis; the grid where it is not periodic, or one window."""
    size, stride = module.window_size, module.stride
    ends = [
        (ceil_div(n, stride) - 1) * stride + size if periodic and n > size else n
        for n, periodic in zip(grid, module.periodic, strict=True)
    ]
    return ends[0], ends[1]


def _cells_end(module: MultipoleAttention, grid: Grid) -> Grid:
    rate = module.rate
    ends = [ceil_div(n, rate) * rate if periodic else n for n, periodic in zip(grid, module.periodic, strict=True)]
    return ends[0], ends[1]


def _extended(x_BHWC: Tensor, end: Grid) -> Tensor:
    """Repeat the first cells of each axis after its last."""
    for axis, last in enumerate(end, 1):
        if last > x_BHWC.shape[axis]:
            x_BHWC = x_BHWC.index_select(axis, torch.arange(last, device=x_BHWC.device) % x_BHWC.shape[axis])
    return x_BHWC


def _folded(out: Tensor, axis: int, n: int, size: int, stride: int) -> Tensor:
    """Average cells and their repetitions along an axis, each by the number of windows that contain it."""
    cells = torch.arange(out.shape[axis], device=out.device)
    first = torch.arange(0, len(cells) - size + 1, stride, device=out.device)[:, None]
    count = ((cells >= first) & (cells < first + size)).sum(0).to(out.dtype)
    count = count.view(-1, *[1] * (out.dim() - axis - 1))
    shape = [*out.shape[:axis], n, *out.shape[axis + 1 :]]
    total = out.new_zeros(shape).index_add(axis, cells % n, out * count)
    return total / count.new_zeros(n, *count.shape[1:]).index_add(0, cells % n, count)
