"""Multi-head attention in which only the attention itself is left open."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attn_bench.nn.fast_linear import Linear

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class MultiHead(nn.Module):
    """Map tokens (B, ..., dim) to (B, ..., dim); the axes between are one sequence, the last of them fastest.

    QKV without bias and an output projection with bias, as in MANO; no positions.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        attend: maps queries, keys and values, each (B, N, heads, D), to (B, N, heads, D).
    """

    def __init__(self, dim: int, heads: int, attend: Attend) -> None:
        super().__init__()
        self.heads = heads
        self.attend = attend
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.project = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.project(self.attend(q, k, v).flatten(2)).view_as(x)
