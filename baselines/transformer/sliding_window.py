"""Softmax attention within a sliding window, by blocks (Beltagy et al., arXiv:2004.05150)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.multi_head import Remembering
from baselines.transformer.memories import KeyValues

# The side of a block is a multiple of this, by number of axes: larger blocks suit the kernels better, smaller ones
# compute fewer masked scores.
ALIGNED = {1: 16, 2: 2}
Reach = Sequence[int]
Attend = Callable[[Tensor, Tensor, Tensor, Reach, Reach], Tensor]


def attend_window(q: Tensor, k: Tensor, v: Tensor, before: Reach, after: Reach) -> Tensor:
    """Return softmax attention of query i to the keys i - before ... i + after that exist, along each axis of the grid.

    Queries go in blocks of side max(before, after) or a little more, each with its own, the previous and, if ``after``
    is above zero, the next block of keys, under one mask that all of them share: time and memory are linear in the
    points. The first and the last queries of an axis, whose windows are cropped, are computed separately, so that no
    padding is needed.

    Args:
        q, k, v: (B, *grid, heads, D), on a grid (N,) or (H, W).
        before, after: one number for each axis.
    """
    grid = q.shape[1:-2]
    axes = [_stretches(n, first, last, ALIGNED[len(grid)]) for n, first, last in zip(grid, before, after, strict=True)]

    def parts(chosen: tuple[Stretch, ...]) -> Tensor:
        if len(chosen) == len(axes):
            return _attend(q, k, v, chosen, before, after)
        return torch.cat([parts((*chosen, stretch)) for stretch in axes[len(chosen)]], len(chosen) + 1)

    return parts(())


class Stretch(NamedTuple):
    """``blocks`` blocks of ``length`` queries along an axis, from ``first`` on.

    They see the keys ``start`` ... ``stop`` - 1 in pieces of ``piece``: each block its own piece and its neighbors.
    """

    first: int
    length: int
    blocks: int
    start: int
    stop: int
    piece: int

    def queries(self, t: Tensor, axis: int) -> Tensor:
        """Return the axis as two, (blocks, length)."""
        return t.narrow(axis, self.first, self.blocks * self.length).unflatten(axis, (self.blocks, self.length))

    @property
    def neighbours(self) -> int:
        """How many pieces a block sees."""
        return (self.stop - self.start) // self.piece - self.blocks + 1

    def keys(self, t: Tensor, axis: int) -> Tensor:
        """Return the axis as two, (blocks, keys that a block sees), without a copy."""
        seen = t.narrow(axis, self.start, self.stop - self.start)
        return seen.unfold(axis, self.neighbours * self.piece, self.piece).movedim(-1, axis + 1)

    def neighbour(self, t: Tensor, axis: int, i: int) -> Tensor:
        """Return the axis as two, (blocks, the i-th piece that a block sees)."""
        pieces = t.narrow(axis, self.start + i * self.piece, self.blocks * self.piece)
        return pieces.unflatten(axis, (self.blocks, self.piece))

    def mask(self, keys: int, before: int, after: int, device: torch.device) -> Tensor:
        """Return which of the ``keys`` of a block each of its queries attends to, (length, keys)."""
        at = torch.arange(self.length, device=device)[:, None] + (self.first - self.start)
        distance = torch.arange(keys, device=device) - at
        return (distance >= -before) & (distance <= after)


def _stretches(n: int, before: int, after: int, aligned: int) -> list[Stretch]:
    """Return the first block of an axis of ``n`` points, those with all their neighbors, and what is left."""
    block = -(-max(before, after, 1) // aligned) * aligned
    beyond = block if after else 0
    full = max((n - beyond) // block - 1, 0)

    def separate(first: int, last: int) -> Stretch:
        start, stop = max(first - before, 0), min(last + after, n)
        return Stretch(first, last - first, 1, start, stop, stop - start)

    if not full:
        return [separate(0, n)]
    inner = Stretch(block, block, full, 0, (full + 1) * block + beyond, block)
    rest = [separate((full + 1) * block, n)] if (full + 1) * block < n else []
    return [separate(0, block), inner, *rest]


def _attend(q: Tensor, k: Tensor, v: Tensor, stretches: tuple[Stretch, ...], before: Reach, after: Reach) -> Tensor:
    """Return the attention of the queries of one stretch along each axis, (B, *their grid, heads, D)."""
    axes = len(stretches)
    lengths = [2 + 2 * axis for axis in range(axes)]
    for stretch, axis in zip(stretches, _counts(axes), strict=True):
        q = stretch.queries(q, axis)
    k, v = (_Seen.apply(t, stretches) for t in (k, v))
    mask = torch.ones(1, 1, dtype=torch.bool, device=q.device)
    for stretch, axis, first, last in zip(stretches, lengths, before, after, strict=True):
        near = stretch.mask(k.shape[axis // 2 + axes], first, last, q.device)
        mask = (mask[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)
    q = _blocks_first(q, axes)
    queries, keys, values = (t.flatten(0, axes).flatten(1, axes).transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2)
    y = y.reshape(q.shape).movedim(list(range(1, axes + 1)), _counts(axes))
    for axis in range(1, axes + 1):
        y = y.flatten(axis, axis + 1)
    return y


def _counts(axes: int) -> list[int]:
    """Return where blocks are counted, of axes that are two each, (blocks, points of a block)."""
    return [1 + 2 * axis for axis in range(axes)]


def _blocks_first(t: Tensor, axes: int) -> Tensor:
    """Return (B, blocks, points, blocks, points, ...) as (B, blocks, blocks, points, points, ...)."""
    return t.movedim(_counts(axes), list(range(1, axes + 1)))


class _Seen(torch.autograd.Function):
    """The keys or values that each block sees, (B, *blocks, *keys, heads, D), in one copy.

    Its gradient adds whole pieces; that of ``unfold`` adds number by number, which takes longer than the attention.
    """

    @staticmethod
    def forward(t: Tensor, stretches: tuple[Stretch, ...]) -> Tensor:
        """Return the keys of blocks, for ``t`` of (B, *grid, heads, D)."""
        for stretch, axis in zip(stretches, _counts(len(stretches)), strict=True):
            t = stretch.keys(t, axis)
        return _blocks_first(t, len(stretches)).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[Stretch, ...]], output: Tensor) -> None:
        ctx.shape, ctx.stretches = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        axes = len(ctx.stretches)
        found = d.new_zeros(ctx.shape)
        for at in itertools.product(*(range(stretch.neighbours) for stretch in ctx.stretches)):
            place, part = found, d
            for axis, (stretch, i) in enumerate(zip(ctx.stretches, at, strict=True)):
                place = stretch.neighbour(place, 1 + 2 * axis, i)
                part = part.narrow(1 + axes + axis, i * stretch.piece, stretch.piece)
            _blocks_first(place, axes).add_(part)
        return found, None


def attend_around(
    q: Tensor, k: Tensor, v: Tensor, attend: Attend, before: int, after: int, periodic: Sequence[bool]
) -> Tensor:
    """Return attention within a window that goes on at the other end of periodic axes, as ``attend`` computes it.

    Such axes are repeated at both ends as far as a window reaches. One that is shorter than a window is seen whole,
    every key once.

    Args:
        q, k, v: (B, *grid, heads, D).
        before, after: how far a token sees, along every axis.
        periodic: which axes are; empty if none is.
    """
    grid, reaches = q.shape[1:-2], []
    wraps = tuple(periodic) or (False,) * len(grid)
    for axis, (n, wrap) in enumerate(zip(grid, wraps, strict=True), 1):
        reach = ((n - 1) // 2, n // 2) if wrap and before + after >= n else (before, after)
        reaches.append(reach)
        if wrap:
            places = torch.arange(-reach[0], n + reach[1], device=q.device) % n
            q, k, v = (t.index_select(axis, places) for t in (q, k, v))
    y = attend(q, k, v, *zip(*reaches, strict=True))
    for axis, (n, wrap, (first, _)) in enumerate(zip(grid, wraps, reaches, strict=True), 1):
        y = y.narrow(axis, first, n) if wrap else y
    return y


class WindowAttention(Remembering):
    """Multi-head attention of each token to nearby tokens; it generates where it is causal.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        window_size: causal: a token sees itself and the window_size - 1 before it; otherwise itself and
            window_size // 2 on each side, along each axis of the grid.
        causal: whether a token sees no later ones.
        periodic: along which axes windows go on at the other end; empty if along none.
        attend: computes the attention, like :func:`attend_window`.
    """

    on_grid = True

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        causal: bool,
        periodic: tuple[bool, ...] = (),
        attend: Attend = attend_window,
    ) -> None:
        before, after = (window_size - 1, 0) if causal else (window_size // 2, window_size // 2)
        within = partial(attend_around, attend=attend, before=before, after=after, periodic=periodic)
        super().__init__(dim, heads, within, KeyValues(window_size))
        self.window_size, self.periodic = window_size, periodic
