"""Attention of blocks by matrix products on a few blocks at a time, for devices without a kernel.

Axes in names as in :mod:`baselines.fma.blocks`; G samples times heads, X blocks of a chunk (of all its groups).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attn_bench.nn.precision import wide_dtype

NOTHING = -1e30
"""Log-sum-exp of a query that reads no key. Finite, so that no difference of infinities arises."""

CHUNK_BYTES = 256 * 2**20
"""Scores of a chunk."""


def forward(
    q_GNE: Tensor, k_GTE: Tensor, v_GTE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    """Return the output, (G, N, E), and the log-sum-exp, (G, N); see :func:`baselines.fma.blocks.attend_blocks`."""
    k_GTE, v_GTE = k_GTE.contiguous(), v_GTE.contiguous()
    out, lse = q_GNE.new_empty(q_GNE.shape), q_GNE.new_empty(q_GNE.shape[:2], dtype=wide_dtype(q_GNE.dtype))
    with torch.autocast(q_GNE.device.type, enabled=False):
        for chunk in _chunks(q_GNE, index_MS):
            rows, p_XIS = chunk.scores(q_GNE, k_GTE, index_MS, bias_T, diagonal)
            top = p_XIS.amax(-1, keepdim=True).clamp_(min=NOTHING)
            p_XIS.sub_(top).exp_()
            # The highest score contributes one; less than one is a query without keys.
            weight = p_XIS.sum(-1, keepdim=True).clamp_(min=1)
            o_XIE = torch.bmm(p_XIS, chunk.read(v_GTE, rows)).div_(weight)
            chunk.write(out, o_XIE)
            chunk.write(lse, top.add_(weight.log_()).squeeze(-1))
    return out, lse


def backward(
    do_GNE: Tensor, delta_GN: Tensor, inputs: list[Tensor], diagonal: int, lse_GN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by queries, keys and values; arguments as of :func:`baselines.fma.kernels.backward`."""
    q_GNE, k_GTE, v_GTE, index_MS, bias_T = inputs
    k_GTE, v_GTE = k_GTE.contiguous(), v_GTE.contiguous()
    dq = q_GNE.new_empty(q_GNE.shape)
    # Gradients of rows that many blocks read are summed at least in float32.
    dk, dv = (torch.zeros_like(x, dtype=lse_GN.dtype).flatten(0, 1) for x in (k_GTE, v_GTE))
    with torch.autocast(q_GNE.device.type, enabled=False):
        for chunk in _chunks(q_GNE, index_MS):
            q_XIE, do_XIE = chunk.queries(q_GNE), chunk.queries(do_GNE)
            rows, p_XIS = chunk.scores(q_GNE, k_GTE, index_MS, bias_T, diagonal)
            p_XIS.sub_(chunk.queries(lse_GN)[..., None]).exp_()
            dv.index_add_(0, rows, torch.bmm(p_XIS.mT, do_XIE).flatten(0, 1))
            ds_XIS = torch.bmm(do_XIE, chunk.read(v_GTE, rows).mT).sub_(chunk.queries(delta_GN)[..., None])
            ds_XIS.mul_(p_XIS).mul_(q_GNE.shape[-1] ** -0.5)
            chunk.write(dq, torch.bmm(ds_XIS, chunk.read(k_GTE, rows)))
            dk.index_add_(0, rows, torch.bmm(ds_XIS.mT, q_XIE).flatten(0, 1))
    return dq, dk.view_as(k_GTE).to(k_GTE.dtype), dv.view_as(v_GTE).to(v_GTE.dtype)


class _Chunk:
    """Some blocks of some groups."""

    def __init__(self, groups: slice, blocks: slice, size: int) -> None:
        self.groups, self.blocks, self.size = groups, blocks, size

    def queries(self, x: Tensor) -> Tensor:
        """Return what the chunk has of (G, N, ...): (X, I, ...)."""
        part = x[self.groups, self.blocks.start * self.size : self.blocks.stop * self.size]
        return part.reshape(-1, self.size, *x.shape[2:]).to(wide_dtype(x.dtype))

    def write(self, out: Tensor, part: Tensor) -> None:
        """Undo :meth:`queries`."""
        place = out[self.groups, self.blocks.start * self.size : self.blocks.stop * self.size]
        place.copy_(part.reshape(place.shape))

    def read(self, x_GTE: Tensor, rows: Tensor) -> Tensor:
        """Return the ``rows`` of all groups' keys or values, (X, S, E)."""
        part = x_GTE.view(-1, x_GTE.shape[-1]).index_select(0, rows).to(wide_dtype(x_GTE.dtype))
        groups, blocks = (s.stop - s.start for s in (self.groups, self.blocks))
        return part.view(groups * blocks, -1, x_GTE.shape[-1])

    def scores(
        self, q_GNE: Tensor, k_GTE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
    ) -> tuple[Tensor, Tensor]:
        """Return the rows read, counted over all groups, and the scores, (X, I, S)."""
        index = index_MS[self.blocks].long()
        none, index = index < 0, index.clamp_(min=0)
        groups = torch.arange(self.groups.start, self.groups.stop, device=index.device)
        rows = (groups[:, None, None] * k_GTE.shape[1] + index).flatten()
        bias = bias_T[index].masked_fill_(none, float("-inf")).to(wide_dtype(q_GNE.dtype))
        s = bias[:, None].expand(len(groups), -1, self.size, -1).flatten(0, 1).contiguous()
        if diagonal >= 0:
            later = torch.full((self.size, self.size), float("-inf"), dtype=s.dtype, device=s.device).triu_(1)
            s[..., diagonal : diagonal + self.size] += later
        q_XIE, k_XSE = self.queries(q_GNE), self.read(k_GTE, rows)
        return rows, s.baddbmm_(q_XIE, k_XSE.mT, alpha=q_GNE.shape[-1] ** -0.5)


def _chunks(q_GNE: Tensor, index_MS: Tensor) -> Iterator[_Chunk]:
    """Cut the blocks of all groups into chunks whose scores fit ``CHUNK_BYTES``."""
    groups, blocks, size = len(q_GNE), len(index_MS), q_GNE.shape[1] // len(index_MS)
    most = max(1, CHUNK_BYTES // (size * index_MS.shape[1] * wide_dtype(q_GNE.dtype).itemsize))
    groups_at_once = min(groups, most)
    blocks_at_once = max(1, most // groups_at_once)
    for g in range(0, groups, groups_at_once):
        for m in range(0, blocks, blocks_at_once):
            stops = min(groups, g + groups_at_once), min(blocks, m + blocks_at_once)
            yield _Chunk(slice(g, stops[0]), slice(m, stops[1]), size)
