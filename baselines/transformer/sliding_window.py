"""Softmax attention within a sliding window, by blocks (Beltagy et al., arXiv:2004.05150)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.multi_head import MultiHead

# Blocks are a multiple of this, which suits the kernels better.
ALIGNED = 16


def attend_window(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, before: int, after: int) -> Tensor:
    """Return softmax attention of query i to the keys i - before ... i + after that exist, (B, N, heads, D).

    Queries go in blocks of max(before, after) or a little more, each with its own, the previous and, if ``after`` is
    above zero, the next block of keys, under one mask that all of them share: O(N (before + after)) time and memory.
    The first and the last queries, whose window is cut off, have calls of their own, so that no padding is needed.
    """
    n, block = q_BNHD.shape[1], -(-max(before, after, 1) // ALIGNED) * ALIGNED
    beyond = block if after else 0
    full = max((n - beyond) // block - 1, 0)  # blocks with all their neighbours, from the second on

    def stretch(first: int, last: int) -> Tensor:
        start, stop = max(first - before, 0), min(last + after, n)
        return _attend_masked(
            q_BNHD[:, first:last], k_BNHD[:, start:stop], v_BNHD[:, start:stop], first - start, before, after
        )

    if not full:
        return stretch(0, n)
    b = q_BNHD.shape[0]
    queries = q_BNHD[:, block : (full + 1) * block].unflatten(1, (full, block)).flatten(0, 1)
    keys, values = (_slabs(t, full, block, beyond) for t in (k_BNHD, v_BNHD))
    inner = _attend_masked(queries, keys, values, block, before, after).view(b, full * block, *q_BNHD.shape[2:])
    parts = [stretch(0, block), inner]
    if (full + 1) * block < n:
        parts.append(stretch((full + 1) * block, n))
    return torch.cat(parts, 1)


def _slabs(t_BNHD: Tensor, full: int, block: int, beyond: int) -> Tensor:
    """Return for blocks 1 .. full their previous, own and, if ``beyond``, next block as one: (B full, slab, H, D)."""
    count = full + 1 + (beyond > 0)
    blocks = t_BNHD[:, : count * block].unflatten(1, (count, block))
    neighbours = [blocks[:, i : i + full] for i in range(count - full + 1)]
    return torch.cat(neighbours, 2).flatten(0, 1)


def _attend_masked(q_BNHD: Tensor, k_BMHD: Tensor, v_BMHD: Tensor, offset: int, before: int, after: int) -> Tensor:
    """Attend within the window, where query 0 stands at key ``offset``."""
    at = torch.arange(q_BNHD.shape[1], device=q_BNHD.device)[:, None] + offset
    distance = torch.arange(k_BMHD.shape[1], device=q_BNHD.device) - at
    mask = (distance >= -before) & (distance <= after)
    q, k, v = (t.transpose(1, 2) for t in (q_BNHD, k_BMHD, v_BMHD))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class WindowAttention(MultiHead):
    """Multi-head attention of each token to those near it.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        window_size: causal: a token sees itself and the window_size - 1 before it; otherwise itself and
            window_size // 2 on each side.
        causal: whether a token sees none that come after it.
    """

    def __init__(self, dim: int, heads: int, window_size: int, causal: bool) -> None:
        before, after = (window_size - 1, 0) if causal else (window_size // 2, window_size // 2)
        super().__init__(dim, heads, partial(attend_window, before=before, after=after))
