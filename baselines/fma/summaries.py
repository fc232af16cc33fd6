"""Summaries of the cells of every level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.plugin import OptionError

Summary = Literal["grouped", "dense", "average"]
RUN = 512
"""Tokens that are transposed at once, at most: with their channels they stay in a cache."""


class ChannelsFirst(torch.autograd.Function):
    """Store (B, T, H, E) as (E, B, H, T), and its gradient the other way round, in two copies.

    In one, it would read numbers as far apart as all channels of a token, or write them as far apart as all tokens of
    a channel; from 16384 tokens on the CPU that takes six times as long.
    """

    @staticmethod
    def forward(x_BTHE: Tensor, run: int) -> Tensor:
        """Return x; ``run`` divides T."""
        x_BXEHR = x_BTHE.unflatten(1, (-1, run)).permute(0, 1, 4, 3, 2).contiguous()
        return x_BXEHR.permute(2, 0, 3, 1, 4).flatten(3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.run = inputs[1]

    @staticmethod
    def backward(ctx: Any, dx_EBHT: Tensor) -> tuple[Tensor, None]:
        dx_BXEHR = dx_EBHT.unflatten(3, (-1, ctx.run)).permute(1, 3, 0, 2, 4).contiguous()
        return dx_BXEHR.permute(0, 1, 4, 3, 2).flatten(1, 2), None


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
        self, x_BTHE: Tensor, levels: Sequence[tuple[int, int]], stretch: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Return the summaries of every level, (B, cells * rank, H, E) each.

        Args:
            x_BTHE: tokens cell by cell, zeros beyond the grid.
            levels: width and rank of every level.
            stretch: tokens of a part over those of them on the grid, (cells * rank,); None where all are.
        """
        if not self.kernels:
            found = self._averages(x_BTHE, levels)
        elif self.kind == "grouped":
            runs = max((width for width, _ in levels if width <= RUN), default=levels[0][0])
            x_EBHT = ChannelsFirst.apply(x_BTHE, runs)
            found = [self._grouped(x_EBHT, l, *sizes) for l, sizes in enumerate(levels, 1)]
        else:
            x_BHTE = x_BTHE.transpose(1, 2).contiguous()
            found = [self._dense(x_BHTE, l, *sizes) for l, sizes in enumerate(levels, 1)]
        return [x if s is None else x * s[:, None, None].to(x.dtype) for x, s in zip(found, stretch, strict=True)]

    def _weight(self, level: int) -> Tensor:
        return self.kernels[min(level, len(self.kernels)) - 1]

    def _averages(self, x_BTHE: Tensor, levels: Sequence[tuple[int, int]]) -> list[Tensor]:
        found = []
        sums, size = x_BTHE, 1
        for width, rank in levels:
            part = width // rank
            if part % size:
                sums, size = x_BTHE, 1
            sums, size = sums.unflatten(1, (-1, part // size)).sum(2), part
            found.append(sums / part)
        return found

    def _grouped(self, x_EBHT: Tensor, level: int, width: int, rank: int) -> Tensor:
        e, b, h, _ = x_EBHT.shape
        kernel_EPW = self.kernel(level, width).to(x_EBHT.dtype)
        y_EPX = torch.bmm(kernel_EPW, x_EBHT.reshape(e, -1, width).mT)
        return y_EPX.view(e, rank, b, h, -1).permute(2, 4, 1, 3, 0).reshape(b, -1, h, e)

    def _dense(self, x_BHTE: Tensor, level: int, width: int, rank: int) -> Tensor:
        b, h, _, e = x_BHTE.shape
        kernel = self.kernel(level, width).to(x_BHTE.dtype).view(width * e, rank * e)
        y_BHXPE = (x_BHTE.reshape(-1, width * e) @ kernel).view(b, h, -1, rank, e)
        return y_BHXPE.permute(0, 2, 3, 1, 4).reshape(b, -1, h, e)
