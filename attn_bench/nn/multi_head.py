"""Multi-head attention around any attention function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

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
        q, k, v = self._heads_of(x if self.on_grid else x.flatten(1, -2))
        return self._merged(self.attend(q, k, v), x)

    def _heads_of(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def _merged(self, y: Tensor, like: Tensor) -> Tensor:
        return self.project(y.flatten(-2)).view_as(like)


class Memory(Protocol):
    """What an attention function keeps of the keys and values of a context, to attend to them later."""

    def start(self, k_BNHD: Tensor, v_BNHD: Tensor) -> Any:
        """Return the state after a context."""

    def step(self, q_B1HD: Tensor, k_B1HD: Tensor, v_B1HD: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the attention of one more token to all so far, (B, 1, heads, D), and the state after it."""


class Remembering(MultiHead):
    """Multi-head attention that can generate (:class:`attn_bench.nn.generation.Recurrent`).

    Args:
        dim, heads, attend: as in :class:`MultiHead`; the attention is causal.
        memory: the same attention for one token at a time.
    """

    def __init__(self, dim: int, heads: int, attend: Attend, memory: Memory) -> None:
        super().__init__(dim, heads, attend)
        self.memory = memory

    def prefill(self, x_BNC: Tensor) -> tuple[Tensor, Any]:
        """Return the output for a context, (B, N, dim), and the state after it."""
        q, k, v = self._heads_of(x_BNC)
        return self._merged(self.attend(q, k, v), x_BNC), self.memory.start(k, v)

    def step(self, x_B1C: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the output for one more token, (B, 1, dim), and the state after it."""
        y, state = self.memory.step(*self._heads_of(x_B1C), state)
        return self._merged(y, x_B1C), state
