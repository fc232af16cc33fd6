"""Multi-head attention around any attention function."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from attn_bench.nn.fast_linear import Linear

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class MultiHead(nn.Module):
    """Map tokens (B, *grid, dim) to (B, *grid, dim).

    QKV without bias and an output projection with bias, as in MANO; no positions.

    Attributes:
        on_grid: whether ``attend`` receives the grid; otherwise its axes are flattened to one sequence, row by row.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        attend: maps queries, keys and values, each (B, N, heads, D) or (B, *grid, heads, D), to the same shape.
    """

    on_grid: ClassVar[bool] = False

    def __init__(self, dim: int, heads: int, attend: Attend) -> None:
        super().__init__()
        self.heads = heads
        self.attend = attend
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.project = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x if self.on_grid else x.flatten(1, -2)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.project(self.attend(q, k, v).flatten(-2)).view_as(x)
