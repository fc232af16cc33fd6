"""The sizes of the pyramid's levels and their windows. Does not import torch.

Words used throughout :mod:`mano`: a *cell* is one place of a grid and has one token; a *level* is the grid at one
scale; a *window* is window_size x window_size cells that attend to each other; a *chunk* is the windows, of any levels,
that torch's operations work on at once, and a *tile* those that the C++ code works on at once.
"""

from __future__ import annotations

Grid = tuple[int, int]
"""Rows and columns of tokens."""


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return (a + b - 1) // b


def level_grids(grid: Grid, window_size: int, rate: int, levels: int | None = None) -> tuple[Grid, ...]:
    """Return the grid of every level, finest first.

    A level is followed by one ``rate`` times coarser (rounded up) as long as it has more than one window; with
    ``rate = window_size = 2`` that gives 4 levels at 16 x 16, 5 at 32 and 6 at 64. ``levels`` is an upper bound; as the
    last grid is a single window, a larger bound changes nothing.
    """
    grids = [grid]
    while max(grids[-1]) > window_size and len(grids) != levels:
        h, w = grids[-1]
        grids.append((ceil_div(h, rate), ceil_div(w, rate)))
    return tuple(grids)


def window_counts(grid: Grid, window_size: int, stride: int) -> Grid:
    """Return the number of windows along each axis: the fewest that cover every cell (``stride <= window_size``)."""
    h, w = (max(0, ceil_div(n - window_size, stride)) + 1 for n in grid)
    return h, w
