"""Triton kernels of :mod:`baselines.fma.blocks`: the rows that a block of queries reads are read where they are.

A program takes one group and some queries of one block, and loops over the block's list a tile at a time, so that
neither gathered keys nor scores exist in memory. The softmax is computed as it goes; the log-sum-exp of every query is
stored, and the backward kernel computes the scores again. Rows that several blocks read get their gradient by atomic
additions in float32, in no fixed order, so that two runs may differ in the last digits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from baselines.fma.tiles import SLOTS, tiles

NOTHING = tl.constexpr(-1e30)


@triton.jit
def _queries(
    queries, rows, size, parts, HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr
):  # fmt: skip
    """Return the program's block, where its group's keys begin, its queries' rows in the block, the channels,
    where the queries and their channels are, which of the queries exist, and which of their channels do."""
    # Groups are on the same axis, as the others have at most 65,535 programs. All places are counted in 64 bits.
    program = tl.program_id(0).to(tl.int64)
    of_group = queries // size * parts
    group, block = program // of_group, program % of_group // parts
    row = program % parts * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    place = group * queries + block * size + row
    at = place[:, None] * HEAD_DIM + channel[None, :]
    inside = row < size
    return block, group * rows * HEAD_DIM, row, channel, place, at, inside, inside[:, None] & (channel < HEAD_DIM)[None]


@triton.jit
def _scores(
    q, k, index, bias, block, slot, row, slots, size, diagonal, scale,
    channel, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the rows of a tile of slots, where they are in k, which pairs are read, and the scores of those."""
    keys = tl.load(index + (block * slots + slot), mask=slot < slots, other=-1)
    there = keys >= 0
    keys = tl.where(there, keys, 0).to(tl.int64)
    at = keys[:, None] * HEAD_DIM + channel[None, :]
    mask = there[:, None] & (channel < HEAD_DIM)[None, :]
    score = tl.dot(q, tl.trans(tl.load(k + at, mask=mask, other=0.0)), input_precision=PRECISION) * scale
    score += tl.load(bias + keys, mask=there, other=0.0)[None, :]
    # Slot ``diagonal`` and those after it hold the block itself, of which a query reads nothing after it.
    later = (diagonal >= 0) & (slot[None, :] >= diagonal) & (slot[None, :] < diagonal + size)
    read = there[None, :] & ((slot[None, :] - diagonal <= row[:, None]) | (later == 0))
    return at, mask, read, score


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, index, bias, out, lse, queries, rows, slots, size, parts, diagonal, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr, SLOTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, first, row, channel, place, at, inside, mask = _queries(
        queries, rows, size, parts, HEAD_DIM, CHANNELS, QUERIES
    )  # fmt: skip
    q = tl.load(q_ptr + at, mask=mask, other=0.0)
    top = tl.full((QUERIES,), NOTHING, tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    o = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for start in range(0, slots, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        keys, there, read, score = _scores(
            q, k_ptr + first, index, bias, block, slot, row, slots, size, diagonal, scale,
            channel, HEAD_DIM, PRECISION,
        )  # fmt: skip
        score = tl.where(read, score, NOTHING)
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.where(read, tl.exp(score - higher[:, None]), 0.0)
        shrink = tl.exp(top - higher)
        v = tl.load(v_ptr + first + keys, mask=there, other=0.0)
        weight = weight * shrink + tl.sum(p, 1)
        o = o * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        top = higher
    weight = tl.where(weight > 0, weight, 1.0)
    tl.store(out + at, (o / weight[:, None]).to(out.dtype.element_ty), mask=mask)
    tl.store(lse + place, top + tl.log(weight), mask=inside)


@triton.jit
def _backward(
    do_ptr, delta, q_ptr, k_ptr, v_ptr, index, bias, lse, dq, dk, dv,
    queries, rows, slots, size, parts, diagonal, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr, SLOTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, first, row, channel, place, at, inside, mask = _queries(
        queries, rows, size, parts, HEAD_DIM, CHANNELS, QUERIES
    )  # fmt: skip
    q, do = tl.load(q_ptr + at, mask=mask, other=0.0), tl.load(do_ptr + at, mask=mask, other=0.0)
    its_lse, its_delta = tl.load(lse + place, mask=inside, other=0.0), tl.load(delta + place, mask=inside, other=0.0)
    d = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for start in range(0, slots, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        keys, there, read, score = _scores(
            q, k_ptr + first, index, bias, block, slot, row, slots, size, diagonal, scale,
            channel, HEAD_DIM, PRECISION,
        )  # fmt: skip
        read = read & inside[:, None]
        p = tl.where(read, tl.exp(tl.where(read, score - its_lse[:, None], 0.0)), 0.0)
        v = tl.load(v_ptr + first + keys, mask=there, other=0.0)
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - its_delta[:, None]) * scale
        k = tl.load(k_ptr + first + keys, mask=there, other=0.0)
        d += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
        to_k = tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION)
        to_v = tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=PRECISION)
        tl.atomic_add(dk + first + keys, to_k, mask=there, sem="relaxed")
        tl.atomic_add(dv + first + keys, to_v, mask=there, sem="relaxed")
    tl.store(dq + at, d.to(dq.dtype.element_ty), mask=mask)


def forward(
    q_GNE: Tensor, k_GTE: Tensor, v_GTE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    """Return the output, (G, N, E), and the log-sum-exp, (G, N); see :func:`baselines.fma.blocks.attend_blocks`."""
    q_GNE, k_GTE, v_GTE = (x.contiguous() for x in (q_GNE, k_GTE, v_GTE))
    out, lse = torch.empty_like(q_GNE), q_GNE.new_empty(q_GNE.shape[:2], dtype=torch.float32)
    _launch(_forward, (q_GNE, k_GTE, v_GTE, index_MS, bias_T, out, lse), q_GNE, k_GTE, index_MS, diagonal)
    return out, lse


def backward(
    do_GNE: Tensor, delta_GN: Tensor, inputs: list[Tensor], diagonal: int, lse_GN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by queries, keys and values.

    Args:
        do_GNE: by the output.
        delta_GN: the sum of do * o over the channels, less the gradient by the log-sum-exp.
        inputs, diagonal: as in :func:`baselines.fma.blocks.attend_blocks_backward`.
        lse_GN: log-sum-exp of every query.
    """
    q_GNE, k_GTE, v_GTE, index_MS, bias_T = inputs
    do_GNE, delta_GN, q_GNE, k_GTE, v_GTE = (x.contiguous() for x in (do_GNE, delta_GN, q_GNE, k_GTE, v_GTE))
    dq = torch.empty_like(q_GNE)
    dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k_GTE, v_GTE))
    tensors = do_GNE, delta_GN, q_GNE, k_GTE, v_GTE, index_MS, bias_T, lse_GN, dq, dk, dv
    _launch(_backward, tensors, q_GNE, k_GTE, index_MS, diagonal)
    return dq, dk.to(k_GTE.dtype), dv.to(v_GTE.dtype)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], q_GNE: Tensor, k_GTE: Tensor, index_MS: Tensor, diagonal: int
) -> None:
    if q_GNE.numel() == 0:
        return
    groups, queries, head_dim = q_GNE.shape
    blocks, slots = index_MS.shape
    size = queries // blocks
    at = tiles(size, head_dim, q_GNE.itemsize)
    kernel[(blocks * at.parts * groups,)](
        *tensors,
        queries,
        k_GTE.shape[1],
        slots,
        size,
        at.parts,
        diagonal,
        head_dim**-0.5,
        HEAD_DIM=head_dim,
        CHANNELS=at.channels,
        QUERIES=at.queries,
        SLOTS=SLOTS,
        num_warps=8 if at.wide else 4,
        # In float32 as torch multiplies matrices.
        PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
    )
