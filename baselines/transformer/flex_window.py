"""Softmax attention within a sliding window by FlexAttention, whose compiled kernel skips blocks outside the window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def window_mask(grid: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]) -> Callable[..., Tensor]:
    """Return whether a query sees a key, of indices into the flattened ``grid``: near enough along each axis."""

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen, stride = torch.ones_like(query, dtype=torch.bool), 1
        for n, backward, forward in reversed(list(zip(grid, before, after, strict=True))):
            distance = key // stride % n - query // stride % n
            seen = seen & (distance >= -backward) & (distance <= forward)
            stride *= n
        return seen

    return mask


@lru_cache(maxsize=16)
def _block_mask(grid: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...], device: torch.device) -> Any:
    n = torch.Size(grid).numel()
    return create_block_mask(window_mask(grid, before, after), None, None, n, n, device=device.type)


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


def attend_flex(q: Tensor, k: Tensor, v: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Return the same as :func:`baselines.transformer.sliding_window.attend_window`.

    On a CPU it is not compiled and has no backward pass.

    Args:
        q, k, v: (B, *grid, heads, D), on a grid (N,) or (H, W).
        before, after: one number for each axis.
    """
    grid = tuple(q.shape[1:-2])
    heads_first = [t.flatten(1, -3).transpose(1, 2) for t in (q, k, v)]
    attend = _compiled() if q.is_cuda and not torch.compiler.is_compiling() else flex_attention
    return (
        attend(*heads_first, block_mask=_block_mask(grid, tuple(before), tuple(after), q.device))
        .transpose(1, 2)
        .reshape(q.shape)
    )
