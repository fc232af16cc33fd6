"""The order in which Fast Multipole Attention stores tokens and summaries, and the rows that every block reads.

Tokens are stored cell by cell: the tokens of a cell of any level are contiguous, and within them those of each of its
2^D children, and so on as long as the side can be halved. So a cell is a run of tokens at every level, in 2D as in 1D
(where this is the order of the sequence). With p summaries, each represents a p-th of the run, in 2D a square if p is
a power of 4 and the side a power of 2. The grid is padded to whole cells of the last level; no query reads the padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.fma.tiling import Grid, cells_of, coordinates, level_count, number


@dataclass(frozen=True)
class Tree:
    """The cells of ``grid``, of ``side`` tokens at the finest level, twice as many at each further one."""

    grid: Grid
    side: int

    @property
    def fine(self) -> Grid:
        """Fine cells along each axis."""
        return cells_of(self.grid, self.side)

    @property
    def levels(self) -> int:
        """Levels that have interaction lists; none if everything is near."""
        return level_count(self.fine)

    @property
    def top(self) -> Grid:
        """Cells of the last level along each axis."""
        return cells_of(self.fine, 2 ** (self._depth - 1))

    @property
    def tokens(self) -> int:
        """Tokens of the completed grid."""
        return prod(self.top) * self.width(self._depth)

    def width(self, level: int) -> int:
        """Return how many tokens a cell of ``level`` (1, 2, ...) has."""
        return (self.side * 2 ** (level - 1)) ** len(self.grid)

    def places(self, level: int) -> Tensor:
        """Return which run of tokens every cell of ``level`` is, (cells,), cells row by row as in the lists."""
        below = self._depth - level
        at = coordinates(cells_of(self.fine, 2 ** (level - 1)))
        run = number(at >> below, self.top)
        for bit in reversed(range(below)):
            for axis in range(len(self.grid)):
                run = 2 * run + (at[:, axis] >> bit & 1)
        return run

    def gather(self, x: Tensor) -> Tensor:
        """Pad a grid with zeros and store it cell by cell: (B, \\*grid, C) to (B, tokens, C)."""
        beyond: list[int] = [0, 0]
        for size, whole in reversed(list(zip(self.grid, self._whole, strict=True))):
            beyond += [0, whole - size]
        split = (F.pad(x, beyond) if any(beyond) else x).reshape(len(x), *self._split, x.shape[-1])
        return split.permute(0, *(1 + axis for axis in self._axes), split.dim() - 1).reshape(len(x), -1, x.shape[-1])

    def scatter(self, x_BTC: Tensor) -> Tensor:
        """Undo :meth:`gather`."""
        b, _, c = x_BTC.shape
        cells = x_BTC.view(b, *(self._split[axis] for axis in self._axes), c)
        back = sorted(range(len(self._axes)), key=lambda i: self._axes[i])
        x = cells.permute(0, *(1 + i for i in back), cells.dim() - 1).reshape(b, *self._whole, c)
        for axis, size in enumerate(self.grid):
            x = x.narrow(axis + 1, 0, size)
        return x

    @cached_property
    def real(self) -> Tensor:
        """Tell which tokens are on the grid, (tokens,)."""
        return self.gather(torch.ones(1, *self.grid, 1))[0, :, 0] > 0

    @property
    def _depth(self) -> int:
        return max(1, self.levels)

    @property
    def _halvings(self) -> int:
        """How often a cell of the last level is halved: down to fine cells, and on as often as 2 divides their side."""
        return self._depth - 1 + (self.side & -self.side).bit_length() - 1

    @property
    def _whole(self) -> Grid:
        return tuple(cells * self.side * 2 ** (self._depth - 1) for cells in self.top)

    @property
    def _split(self) -> list[int]:
        """Every axis as cells of the last level, halves, halves of them, ..., tokens that cannot be halved."""
        return [
            size for cells in self.top for size in (cells, *[2] * self._halvings, self.side // (self.side & -self.side))
        ]

    @property
    def _axes(self) -> list[int]:
        """The axes of ``_split`` from the coarsest to the finest."""
        scales = self._halvings + 2
        return [axis * scales + scale for scale in range(scales) for axis in range(len(self.grid))]
