"""Attention of blocks on the CPU, by torch's flash attention on the rows that a few blocks read.

Axes in names as in :mod:`baselines.fma.blocks`; X blocks of a chunk (of all its samples).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.precision import wide_dtype
from baselines.fma.tensor_blocks import NOTHING

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

CHUNK_BYTES = 4 * 2**20
"""Keys that a chunk reads, at most; but no more than four times the queries, or a quarter of this if that is more."""


def forward(
    q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp; see :func:`baselines.fma.blocks.attend_blocks`."""
    out, lse = q_BNHE.new_empty(q_BNHE.shape), q_BNHE.new_empty(q_BNHE.shape[:3], dtype=wide_dtype(q_BNHE.dtype))
    k_BTHE, v_BTHE = k_BTHE.contiguous(), v_BTHE.contiguous()
    with torch.autocast("cpu", enabled=False):
        for chunk in _chunks(q_BNHE, index_MS, bias_T, diagonal):
            k_XHSE, v_XHSE = chunk.read(k_BTHE), chunk.read(v_BTHE)
            o_XHIE, lse_XHI = _flash(
                chunk.queries(q_BNHE), k_XHSE, v_XHSE, attn_mask=chunk.mask, scale=q_BNHE.shape[-1] ** -0.5
            )
            chunk.write(out, o_XHIE)
            chunk.write(lse, lse_XHI.masked_fill_(chunk.nothing, NOTHING))
    return out, lse


def backward(
    do_BNHE: Tensor,
    dlse_BNH: Tensor | None,
    inputs: list[Tensor],
    diagonal: int,
    out_BNHE: Tensor,
    lse_BNH: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by queries, keys and values; see :func:`baselines.fma.blocks.attend_blocks_backward`.

    Flash attention has no gradient by the log-sum-exp. It is added by one more channel, in which values are 1, the
    output passes for 0, and the gradient by the output is that by the log-sum-exp.
    """
    q_BNHE, k_BTHE, v_BTHE, index_MS, bias_T = inputs
    e = q_BNHE.shape[-1]
    k_BTHE, v_BTHE = k_BTHE.contiguous(), v_BTHE.contiguous()
    dq = q_BNHE.new_empty(q_BNHE.shape)
    # Gradients of rows that many blocks read are summed at least in float32.
    dk, dv = (torch.zeros_like(x, dtype=lse_BNH.dtype) for x in (k_BTHE, v_BTHE))
    with torch.autocast("cpu", enabled=False):
        for chunk in _chunks(q_BNHE, index_MS, bias_T, diagonal):
            q_XHIE, o_XHIE, do_XHIE = (chunk.queries(x) for x in (q_BNHE, out_BNHE, do_BNHE))
            k_XHSE, v_XHSE = chunk.read(k_BTHE), chunk.read(v_BTHE)
            if dlse_BNH is not None:
                q_XHIE, o_XHIE, k_XHSE = (F.pad(x, (0, 1)) for x in (q_XHIE, o_XHIE, k_XHSE))
                do_XHIE = torch.cat([do_XHIE, chunk.queries(dlse_BNH)[..., None]], -1)
                v_XHSE = F.pad(v_XHSE, (0, 1), value=1.0)
            dq_XHIE, dk_XHSE, dv_XHSE = _flash_backward(
                *(do_XHIE, q_XHIE, k_XHSE, v_XHSE, o_XHIE, chunk.queries(lse_BNH).contiguous()),
                *(0.0, False),
                attn_mask=chunk.mask,
                scale=e**-0.5,
            )
            chunk.write(dq, dq_XHIE[..., :e])
            chunk.add(dk, dk_XHSE[..., :e])
            chunk.add(dv, dv_XHSE[..., :e])
    return dq, dk.to(k_BTHE.dtype), dv.to(v_BTHE.dtype)


@dataclass(frozen=True)
class _Chunk:
    """Some blocks of some samples.

    Attributes:
        samples, blocks: which.
        size: queries of a block.
        rows: that they read, counted over all samples, (X * S,).
        mask: what is added to the scores, (X, 1, I or 1, S).
        nothing: which queries read no row, (X, 1, I or 1).
    """

    samples: slice
    blocks: slice
    size: int
    rows: Tensor
    mask: Tensor
    nothing: Tensor

    def queries(self, x: Tensor) -> Tensor:
        """Return what the chunk has of (B, N, H, ...): (X, H, I, ...); the kernels need adjacent channels."""
        part = self._part(x).reshape(-1, self.size, *x.shape[2:]).to(wide_dtype(x.dtype))
        return (part if part.stride(-1) == 1 else part.contiguous()).transpose(1, 2)

    def write(self, out: Tensor, part: Tensor) -> None:
        """Undo :meth:`queries`."""
        place = self._part(out)
        place.copy_(part.transpose(1, 2).reshape(place.shape))

    def read(self, x_BTHE: Tensor) -> Tensor:
        """Return the ``rows`` of keys or values, (X, H, S, E)."""
        part = x_BTHE.flatten(2).flatten(0, 1).index_select(0, self.rows).to(wide_dtype(x_BTHE.dtype))
        return part.view(len(self.nothing), -1, *x_BTHE.shape[2:]).transpose(1, 2)

    def add(self, x_BTHE: Tensor, part_XHSE: Tensor) -> None:
        """Add to what :meth:`read` returns."""
        x_BTHE.view(-1, x_BTHE.shape[2:].numel()).index_add_(
            0, self.rows, part_XHSE.transpose(1, 2).flatten(2).flatten(0, 1)
        )

    def _part(self, x: Tensor) -> Tensor:
        return x[self.samples, self.blocks.start * self.size : self.blocks.stop * self.size]


def _chunks(q_BNHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int) -> Iterator[_Chunk]:
    """Cut the blocks of all samples into chunks whose keys fit :data:`CHUNK_BYTES`."""
    (samples, n, *_), (blocks, slots) = q_BNHE.shape, index_MS.shape
    size, rows = n // blocks, len(bias_T)
    itemsize = wide_dtype(q_BNHE.dtype).itemsize
    row_bytes = q_BNHE.shape[2:].numel() * itemsize
    limit = min(CHUNK_BYTES, max(CHUNK_BYTES // 4, 4 * samples * n * row_bytes))
    most = max(1, limit // (slots * max(row_bytes, size * itemsize if diagonal >= 0 else 0)))
    samples_at_once = max(1, most // blocks)
    for first in range(0, blocks, most):
        part = slice(first, min(first + most, blocks))
        index = index_MS[part].long()
        none = index < 0
        index.clamp_(min=0)
        mask = bias_T[index].to(wide_dtype(q_BNHE.dtype)).masked_fill_(none, float("-inf"))[:, None]
        if diagonal >= 0:
            later = mask.new_full((size, size), float("-inf")).triu_(1)
            mask = mask + F.pad(later, (diagonal, slots - diagonal - size))
        nothing = mask.amax(-1) == float("-inf")
        for b in range(0, samples, samples_at_once):
            some = slice(b, min(b + samples_at_once, samples))
            at = torch.arange(some.start, some.stop)
            yield _Chunk(
                some,
                part,
                size,
                (at[:, None, None] * rows + index).flatten(),
                mask.repeat(len(at), 1, 1)[:, None],
                nothing.repeat(len(at), 1)[:, None],
            )
