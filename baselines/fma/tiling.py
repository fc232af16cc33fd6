"""Near fields and interaction lists of Fast Multipole Attention, in 1D and in 2D.

The tokens of a grid are cut into fine cells of side m (intervals in 1D, squares in 2D). At level l = 1, 2, ... a cell
has side m 2^(l-1), so level 1 are the fine cells and each cell of level l + 1 is the parent of 2^D cells of level l.

- The near field of a fine cell is itself and the cells that touch it.
- The interaction list of a cell at level l are the cells of level l in its parent's near field but not in its own.

A query sees its near field token by token, and at every level the interaction list of its cell. With the number of
levels given by :func:`level_count`, these cover every cell exactly once. In 1D the lists are, for an interval a,
{a - 2, a + 2, a + 3} if a is even and {a - 3, a - 2, a + 2} if it is odd; causal lists keep those below a.

Cells are numbered row by row. Lists are padded with -1, which means no cell.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

Grid = tuple[int, ...]


def cells_of(grid: Grid, side: int) -> Grid:
    """Return how many cells of ``side`` tokens cover ``grid`` along each axis."""
    return tuple(-(-size // side) for size in grid)


def level_count(fine: Grid) -> int:
    """Return the fewest levels that cover every pair of cells, for ``fine`` fine cells along each axis.

    That is log2(n / m) - 1 for n / m a power of two: at the last level no parent is out of another's near field.
    """
    return max(0, (max(fine) - 1).bit_length() - 1)


def near_lists(fine: Grid, causal: bool = False) -> Tensor:
    """Return the near field of every fine cell, (cells, 3^D); causal, in 1D, (cells, 2): the one before and itself."""
    lists = number(coordinates(fine)[:, None] + _offsets(range(-1, 2), len(fine)), fine)
    return lists[:, :2] if causal else lists


def interaction_lists(cells: Grid, causal: bool = False) -> Tensor:
    """Return the interaction list of every cell of a level, (cells, 6^D - 3^D); causal, in 1D, (cells, 2).

    Args:
        cells: cells of that level along each axis.
        causal: leave out what comes after the cell; for one dimension.
    """
    own = coordinates(cells)[:, None]
    seen = own // 2 * 2 + _offsets(range(-2, 4), len(cells))
    far = ((seen - own).abs() > 1).any(-1)
    lists = number(seen[far].view(len(own), -1, len(cells)), cells)
    if not causal:
        return lists
    past = lists[:, :2]
    return past.where(past < torch.arange(len(past))[:, None], -1)


def ancestors(fine: Grid, level: int) -> Tensor:
    """Return the number of the cell of ``level`` that every fine cell lies in, (cells,)."""
    return number(coordinates(fine) >> (level - 1), cells_of(fine, 2 ** (level - 1)))


def coordinates(cells: Grid) -> Tensor:
    """Return where every cell lies, row by row, (cells, D)."""
    return torch.cartesian_prod(*(torch.arange(size) for size in cells)).view(math.prod(cells), len(cells))


def _offsets(steps: range, dimensions: int) -> Tensor:
    return torch.tensor(list(itertools.product(steps, repeat=dimensions)))


def number(places: Tensor, cells: Grid) -> Tensor:
    """Number cells at ``places``, (..., D), row by row; -1 for those beyond the grid."""
    numbers = torch.zeros(places.shape[:-1], dtype=torch.long)
    for axis, size in enumerate(cells):
        numbers = numbers * size + places[..., axis]
    return numbers.where(((places >= 0) & (places < torch.tensor(cells))).all(-1), -1)
