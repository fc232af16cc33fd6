"""Summaries of the cells of every level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.plugin import OptionError

Summary = Literal["grouped", "dense", "average"]


class Summaries(nn.Module):
    """Map the tokens of every cell of a level to ``rank`` summaries: a convolution with kernel = stride = cell.

    Every level has its own weights, applied directly to tokens and shared by all heads (Section 3 of
    arXiv:2310.11960). Kernels start as the mean of each part of the cell, so that all kinds start as ``average`` and
    a rank of all tokens as the identity; they are kept relative to 1 / tokens of a part, as the same learning rate
    then suits narrow kernels and wide ones. Levels beyond those with weights take the last
    kernel, stretched, or averages if there is none.

    Args:
        head_dim: channels of a head.
        widths: tokens of a cell, level by level.
        ranks: summaries of a cell, level by level.
        kind: ``grouped`` (every channel by itself), ``dense`` (all channels of a head) or ``average`` (no weights).
    """

    def __init__(self, head_dim: int, widths: Sequence[int], ranks: Sequence[int], kind: Summary) -> None:
        super().__init__()
        if kind not in get_args(Summary):
            raise OptionError(f"summary is {kind}; it must be one of {', '.join(get_args(Summary))}")
        self.kind = kind
        kernels = []
        if kind != "average":
            for width, rank in zip(widths, ranks, strict=True):
                mean_PW = torch.eye(rank).repeat_interleave(width // rank, 1)
                if kind == "grouped":
                    kernels.append(nn.Parameter(mean_PW.repeat(head_dim, 1, 1)))
                else:
                    same_EE = torch.eye(head_dim)
                    kernels.append(nn.Parameter(torch.einsum("pw,ef->wepf", mean_PW, same_EE).contiguous()))
        self.kernels = nn.ParameterList(kernels)

    def kernel(self, level: int, width: int) -> Tensor:
        """Return the kernel of a level (1, 2, ...): grouped (E, rank, width), dense (width, E, rank, E)."""
        weight = self._weight(level)
        axis, rank = (2, weight.shape[1]) if self.kind == "grouped" else (0, weight.shape[2])
        if weight.shape[axis] != width:
            weight = weight.repeat_interleave(width // weight.shape[axis], axis)
        return weight * (rank / width)

    def alike(self, level: int, width: int, rank: int) -> int:
        """Return how many tokens in a row, from the first of a cell on, a summary of a level weights equally."""
        return width // self._weight(level).shape[2 if self.kind == "grouped" else 0] if self.kernels else width // rank

    def begun(self, x_GNE: Tensor, level: int, width: int, rank: int) -> Tensor:
        """Return the summaries of a cell whose tokens after the first N are zeros, (G, rank, E).

        Takes time and memory for N tokens, however wide the cell.
        """
        alike = self.alike(level, width, rank)
        sums = F.pad(x_GNE, (0, 0, 0, -x_GNE.shape[1] % alike)).unflatten(1, (-1, alike)).sum(2) * (rank / width)
        n = sums.shape[1]
        if not self.kernels:
            return F.pad(sums, (0, 0, 0, rank - n))
        weight = self._weight(level).to(sums.dtype)
        if self.kind == "grouped":
            return torch.einsum("epw,gwe->gpe", weight[..., :n], sums)
        return torch.einsum("wepf,gwe->gpf", weight[:n], sums)

    def added(self, x_GE: Tensor, levels: Sequence[tuple[int, int]], position: int) -> Tensor:
        """Return what one token adds to the summaries of its cell at every level, (G, levels, P, E).

        Levels of a rank below P, the largest, have zeros in place of further summaries.

        Args:
            x_GE: the token.
            levels: width and rank of every level.
            position: of the token in the sequence.
        """
        most = max(rank for _, rank in levels)
        pieces = [position % width // self.alike(level, width, rank) for level, (width, rank) in enumerate(levels, 1)]
        if not self.kernels:
            shares = [
                [rank / width * (p == piece) for p in range(most)] for (width, rank), piece in zip(levels, pieces)
            ]
            return x_GE.new_tensor(shares)[..., None] * x_GE[:, None, None]
        columns = []
        for level, ((width, rank), piece) in enumerate(zip(levels, pieces, strict=True), 1):
            weight = self._weight(level)
            column = weight[:, :, piece].mT if self.kind == "grouped" else weight[piece].transpose(0, 1)
            columns.append(F.pad(column, [0] * (2 * column.dim() - 1) + [most - rank]) * (rank / width))
        weights = torch.stack(columns).to(x_GE.dtype)
        if self.kind == "grouped":
            return weights * x_GE[:, None, None]
        return torch.einsum("lpef,ge->glpf", weights, x_GE)

    def forward(
        self, x_GTE: Tensor, levels: Sequence[tuple[int, int]], stretch: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Return the summaries of every level, (G, cells * rank, E) each.

        Args:
            x_GTE: tokens cell by cell, zeros beyond the grid.
            levels: width and rank of every level.
            stretch: tokens of a part over those of them on the grid, (cells * rank,); None where all are.
        """
        if not self.kernels:
            found = self._averages(x_GTE, levels)
        elif self.kind == "grouped":
            x_EGT = x_GTE.permute(2, 0, 1).contiguous()
            found = [self._grouped(x_EGT, l, *sizes) for l, sizes in enumerate(levels, 1)]
        else:
            found = [self._dense(x_GTE, l, *sizes) for l, sizes in enumerate(levels, 1)]
        return [x if s is None else x * s[:, None].to(x.dtype) for x, s in zip(found, stretch, strict=True)]

    def _weight(self, level: int) -> Tensor:
        return self.kernels[min(level, len(self.kernels)) - 1]

    def _averages(self, x_GTE: Tensor, levels: Sequence[tuple[int, int]]) -> list[Tensor]:
        found = []
        sums, size = x_GTE, 1
        for width, rank in levels:
            part = width // rank
            if part % size:
                sums, size = x_GTE, 1
            sums, size = sums.unflatten(1, (-1, part // size)).sum(2), part
            found.append(sums / part)
        return found

    def _grouped(self, x_EGT: Tensor, level: int, width: int, rank: int) -> Tensor:
        e, g, _ = x_EGT.shape
        kernel_EPW = self.kernel(level, width).to(x_EGT.dtype)
        y_EPX = torch.bmm(kernel_EPW, x_EGT.reshape(e, -1, width).mT)
        return y_EPX.view(e, rank, g, -1).permute(2, 3, 1, 0).reshape(g, -1, e)

    def _dense(self, x_GTE: Tensor, level: int, width: int, rank: int) -> Tensor:
        g, _, e = x_GTE.shape
        kernel = self.kernel(level, width).to(x_GTE.dtype).view(width * e, rank * e)
        return (x_GTE.reshape(-1, width * e) @ kernel).view(g, -1, e)
