"""Causal Fast Multipole Attention token by token: what is kept of a context, and one more token.

Axes in names: S keys and values, G = B * heads, I tokens of a fine cell, L levels, P summaries of a cell, E channels of
a head, N tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.precision import wide_dtype
from baselines.fma.attention import FastMultipoleAttention
from baselines.fma.attention_plan import Level
from baselines.fma.summaries import Summaries


@dataclass(frozen=True)
class Context:
    """What later tokens read of a context, which grows with the number of levels: the logarithm of its length.

    Attributes:
        length: tokens so far; the last one is in the current cell of every level.
        levels: width and rank of the levels that have begun. A level begins when its summaries start to weight tokens
            differently, which is before one of them is read; until then they follow from ``total``.
        near: keys and values of the fine cell before and of the current one, with room for all of it, (S, G, 2 I, E).
        far: summaries of the second and the third cell before the current one, of levels with any, (S, G, L, 2, P, E).
        last: of the cell before, which is read later, (S, G, L, P, E).
        begun: of the current cell, of all levels in ``levels``, (S, G, L, P, E).
        total: sums of all keys, values and queries, (3, G, E).
        queries: with queries down-sampled, summaries of the part before and of the current part, (2, G, L, E).
        bias: added to the scores of ``far``, -inf for what is not read, (L * 2 * P,).
    """

    length: int
    levels: tuple[Level, ...]
    near: Tensor
    far: Tensor
    last: Tensor
    begun: Tensor
    total: Tensor
    queries: Tensor | None
    bias: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept, without the room for more near tokens."""
        cell = self.near.shape[2] // 2
        tokens = min(self.length, cell + (self.length - 1) % cell + 1)
        others = (self.far, self.last, self.begun, self.total, self.queries, self.bias)
        return _bytes(self.near) // (2 * cell) * tokens + sum(_bytes(t) for t in others if t is not None)


class RecurrentFMA(FastMultipoleAttention):
    """Causal attention on sequences that can generate (:class:`attn_bench.nn.generation.Recurrent`).

    A cell of any level is read when it is complete, so its summaries are sums that grow with every token. They are kept
    until the cell is too far away for its level. Summaries are summed in float32 at least.
    """

    def prefill(self, x_BNC: Tensor) -> tuple[Tensor, Context]:
        """Return the output for a context, (B, N, dim), and what is kept of it."""
        qkv = self.qkv(x_BNC)
        q_GNE, *kv = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        cell, n = self.cell_size, x_BNC.shape[1]
        start = (n - 1) // cell * cell
        levels = self._begun_by(start + cell)
        closed = sum(width <= n - 1 for width, _ in levels)
        summaries = (self.key_summaries, self.value_summaries)
        with torch.autocast(x_BNC.device.type, enabled=False):
            wide = [t.to(wide_dtype(t.dtype)) for t in (q_GNE, *kv)]
            parts = [(width // rank, 1) for width, rank in levels]

            def kept(back: int, levels: tuple[Level, ...]) -> Tensor:
                found = [_of_cells(s, x, levels, back) for s, x in zip(summaries, wide[1:], strict=True)]
                return torch.stack(found)

            queries = None
            if self.query_downsampling:
                found = [_of_cells(self.query_summaries, wide[0], parts, back)[:, :, 0] for back in (1, 0)]
                queries = torch.stack(found)
            near = F.pad(torch.stack(kv)[:, :, max(0, start - cell) :], (0, 0, max(0, cell - start), start + cell - n))
            context = Context(
                n,
                levels,
                near.contiguous(),
                torch.stack([kept(back, levels[:closed]) for back in (2, 3)], 3).to(near.dtype),
                kept(1, levels[:closed]).to(near.dtype),
                kept(0, levels),
                torch.stack([wide[1].sum(1), wide[2].sum(1), wide[0].sum(1)]),
                queries,
                self._bias(levels[:closed], start, near),
            )
        return self.attend(qkv), context

    def step(self, x_B1C: Tensor, state: Context) -> tuple[Tensor, Context]:
        """Return the output for one more token, (B, 1, dim), and what is kept after it."""
        q_GE, *kv = self.qkv(x_B1C).unflatten(-1, (3, self.heads, -1)).squeeze(1).movedim(1, 0).flatten(1, 2)
        with torch.autocast(x_B1C.device.type, enabled=False):
            if state.length % self.cell_size == 0:
                state = self._next_cell(state)
            o_GE, state = self._token(q_GE, torch.stack(kv), state)
        y = self.project(o_GE.to(x_B1C.dtype).unflatten(0, (-1, self.heads)).flatten(1))
        return self.dropout(y)[:, None], state

    def _token(self, q_GE: Tensor, kv_SGE: Tensor, state: Context) -> tuple[Tensor, Context]:
        at, wide = self.cell_size + state.length % self.cell_size, state.begun.dtype
        state.near[:, :, at] = kv_SGE
        k_GNE, v_GNE = state.near[:, :, 0 if state.length >= self.cell_size else self.cell_size : at + 1].to(wide)
        k_GLXE, v_GLXE = state.far.flatten(3, 4).to(wide)
        q, k, v = q_GE.to(wide), kv_SGE[0].to(wide), kv_SGE[1].to(wide)
        closed = k_GLXE.shape[1]
        if self.query_downsampling:
            state = self._with_query(q, state)
            assert state.queries is not None
            far_GLE = state.queries[0][:, :closed]
        else:
            far_GLE = q[:, None].expand(-1, closed, -1)
        near_GN, far_GLX = k_GNE @ q[..., None], k_GLXE @ far_GLE[..., None]
        scale = q.shape[-1] ** -0.5
        scores = torch.cat([near_GN[..., 0] * scale, far_GLX.flatten(1) * scale + state.bias], 1)
        o_GE = (scores.softmax(-1)[:, None] @ torch.cat([v_GNE, v_GLXE.flatten(1, 2)], 1))[:, 0]
        found = [s.added(x, state.levels, state.length) for s, x in self._pairs(k, v)]
        begun, total = state.begun + torch.stack(found), state.total + torch.stack([k, v, q])
        return o_GE, replace(state, length=state.length + 1, begun=begun, total=total)

    def _with_query(self, q_GE: Tensor, state: Context) -> Context:
        """Add a query to the summaries of the current parts, and begin new parts where it is their first."""
        assert state.queries is not None
        before, current = state.queries
        parts = [(width // rank, 1) for width, rank in state.levels]
        new = sum(state.length % part == 0 for part, _ in parts)  # parts are nested
        before = torch.cat([current[:, :new], before[:, new:]], 1)
        current = torch.cat([torch.zeros_like(current[:, :new]), current[:, new:]], 1)
        current = current + self.query_summaries.added(q_GE, parts, state.length)[:, :, 0]
        return replace(state, queries=torch.stack([before, current]))

    def _next_cell(self, state: Context) -> Context:
        """Begin a fine cell, and a cell of every level that begins with it."""
        n, cell = state.length, self.cell_size
        levels = self._begun_by(n + cell)
        most, closed = max(rank for _, rank in levels), sum(width <= n for width, _ in levels)
        begun, queries = _resized(state.begun, len(levels), most), state.queries
        if queries is not None:
            queries = F.pad(queries, (0, 0, 0, len(levels) - queries.shape[2]))
        for i in range(len(state.levels), len(levels)):
            width, rank = levels[i]
            for s, (summaries, total_GE) in enumerate(self._pairs(*state.total[:2])):
                begun[s, :, i, :rank] = summaries.begun(total_GE[:, None], i + 1, width, rank)
            if queries is not None:
                queries[1, :, i] = self.query_summaries.begun(state.total[2][:, None], i + 1, width // rank, 1)[:, 0]
        last, far = (_resized(t, closed, most) for t in (state.last, state.far))
        new = sum(n % width == 0 for width, _ in levels)
        far = torch.cat([torch.stack([last[:, :, :new], far[:, :, :new, 0]], 3), far[:, :, new:]], 2)
        last = torch.cat([begun[:, :, :new].to(last.dtype), last[:, :, new:]], 2)
        begun[:, :, :new] = 0
        near = F.pad(state.near[:, :, cell:], (0, 0, 0, cell))
        bias = self._bias(levels[:closed], n, near, most)
        return Context(n, levels, near, far, last, begun, state.total, queries, bias)

    def _begun_by(self, end: int) -> tuple[Level, ...]:
        """Return the levels, one at least, whose summaries weight the first ``end`` tokens differently."""
        count = 1
        while self.key_summaries.alike(count + 1, *self.levels(count + 1)[-1]) < end:
            count += 1
        return self.levels(count)

    def _bias(self, levels: tuple[Level, ...], position: int, like: Tensor, most: int = 0) -> Tensor:
        """Return what is added to the scores of summaries for the tokens of the fine cell that starts at a position."""
        most, found = max([most, *(rank for _, rank in levels)]), []
        for width, rank in levels:
            at, scale = position // width, math.log(width / rank) if self.scale_coarse else 0.0
            for read in (at >= 2, at >= 3 and at % 2):
                found += [scale if read and p < rank else -math.inf for p in range(most)]
        return torch.tensor(found, dtype=wide_dtype(like.dtype), device=like.device)

    def _pairs(self, k: Any, v: Any) -> tuple[tuple[Summaries, Any], tuple[Summaries, Any]]:
        return (self.key_summaries, k), (self.value_summaries, v)


def _of_cells(summaries: Summaries, x_GNE: Tensor, levels: Any, back: int) -> Tensor:
    """Return the summaries of the cell of every level that is ``back`` before that of the last token, (G, L, P, E)."""
    most, (g, n, e) = max((rank for _, rank in levels), default=1), x_GNE.shape
    found = x_GNE.new_zeros(g, len(levels), most, e)
    for i, (width, rank) in enumerate(levels):
        at = (n - 1) // width - back
        if at >= 0:
            found[:, i, :rank] = summaries.begun(x_GNE[:, at * width : (at + 1) * width], i + 1, width, rank)
    return found


def _resized(t_SGL: Tensor, levels: int, most: int) -> Tensor:
    """Return a copy of summaries, (S, G, L, ..., P, E), with zeros for further levels and further summaries."""
    between = [0, 0] * (t_SGL.dim() - 5)
    pad = [0, 0, 0, most - t_SGL.shape[-2], *between, 0, levels - t_SGL.shape[2]]
    return F.pad(t_SGL, pad) if any(pad) else t_SGL.clone()


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()
