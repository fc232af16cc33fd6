"""Softmax attention of blocks of queries, each to its own list of key rows: the operator ``fma::attend_blocks``.

Near tokens and summaries of every level are rows of one buffer, and a block of queries has the list of the rows it
reads, so that all levels share one softmax. On CUDA it is a Triton kernel (:mod:`baselines.fma.kernels`) that reads
the rows where they are; elsewhere tensor operations on a few blocks at a time. The backward pass computes the scores
again, so that memory grows only with the rows and the lists.

Axes in names: G samples times heads, M blocks, I queries of a block, N = M * I, T rows of keys, S rows that a block
reads, E channels of a head, X blocks of a chunk (of all its groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

NOTHING = -1e30
"""Log-sum-exp of a query that reads no key. Finite, so that no difference of infinities arises."""

CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 256 * 2**20}
"""Scores of a chunk; on the CPU they stay in the cache of two cores."""


@torch.library.custom_op("fma::attend_blocks", mutates_args=())
def attend_blocks(
    q_GNE: Tensor, k_GTE: Tensor, v_GTE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    """Return softmax(Q K^T / sqrt(E) + bias) V over the rows that each block reads, and the log-sum-exp, (G, N).

    A query that reads no row gets zeros and ``NOTHING``.

    Args:
        q_GNE: queries, block after block.
        k_GTE: keys.
        v_GTE: values.
        index_MS: int32, the rows that a block reads; -1 for none.
        bias_T: added to the scores of a key.
        diagonal: slot of the lists from which on they hold the block itself, where query i reads none of the slots
            after ``diagonal + i``; -1 where queries of a block all read the same.
    """
    if _has_kernel(q_GNE):
        from baselines.fma.kernels import forward

        return forward(q_GNE, k_GTE, v_GTE, index_MS, bias_T, diagonal)
    k_GTE, v_GTE = k_GTE.contiguous(), v_GTE.contiguous()
    out, lse = q_GNE.new_empty(q_GNE.shape), q_GNE.new_empty(q_GNE.shape[:2], dtype=_wide(q_GNE))
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


@torch.library.custom_op("fma::attend_blocks_backward", mutates_args=())
def attend_blocks_backward(
    do_GNE: Tensor,
    dlse_GN: Tensor | None,
    inputs: list[Tensor],
    diagonal: int,
    out_GNE: Tensor,
    lse_GN: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by queries, keys and values.

    Args:
        do_GNE: by the output.
        dlse_GN: by the log-sum-exp, if it has a gradient.
        inputs: the tensors that :func:`attend_blocks` took.
        diagonal: as there.
        out_GNE, lse_GN: what it returned.
    """
    q_GNE, k_GTE, v_GTE, index_MS, bias_T = inputs
    delta_GN = (do_GNE * out_GNE).sum(-1, dtype=lse_GN.dtype)
    if dlse_GN is not None:
        delta_GN -= dlse_GN
    if _has_kernel(q_GNE):
        from baselines.fma.kernels import backward

        return backward(do_GNE, delta_GN, inputs, diagonal, lse_GN)
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
        return part.reshape(-1, self.size, *x.shape[2:]).to(_wide(x))

    def write(self, out: Tensor, part: Tensor) -> None:
        """Undo :meth:`queries`."""
        place = out[self.groups, self.blocks.start * self.size : self.blocks.stop * self.size]
        place.copy_(part.reshape(place.shape))

    def read(self, x_GTE: Tensor, rows: Tensor) -> Tensor:
        """Return the ``rows`` of all groups' keys or values, (X, S, E)."""
        part = x_GTE.view(-1, x_GTE.shape[-1]).index_select(0, rows).to(_wide(x_GTE))
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
        bias = bias_T[index].masked_fill_(none, float("-inf")).to(_wide(q_GNE))
        s = bias[:, None].expand(len(groups), -1, self.size, -1).flatten(0, 1).contiguous()
        if diagonal >= 0:
            later = torch.full((self.size, self.size), float("-inf"), dtype=s.dtype, device=s.device).triu_(1)
            s[..., diagonal : diagonal + self.size] += later
        q_XIE, k_XSE = self.queries(q_GNE), self.read(k_GTE, rows)
        return rows, s.baddbmm_(q_XIE, k_XSE.mT, alpha=q_GNE.shape[-1] ** -0.5)


def _chunks(q_GNE: Tensor, index_MS: Tensor) -> Iterator[_Chunk]:
    """Cut the blocks of all groups into chunks whose scores fit ``CHUNK_BYTES``."""
    groups, blocks, size = len(q_GNE), len(index_MS), q_GNE.shape[1] // len(index_MS)
    limit = CHUNK_BYTES.get(q_GNE.device.type, CHUNK_BYTES["cpu"])
    most = max(1, limit // (size * index_MS.shape[1] * _wide(q_GNE).itemsize))
    groups_at_once = min(groups, most)
    blocks_at_once = max(1, most // groups_at_once)
    for g in range(0, groups, groups_at_once):
        for m in range(0, blocks, blocks_at_once):
            stops = min(groups, g + groups_at_once), min(blocks, m + blocks_at_once)
            yield _Chunk(slice(g, stops[0]), slice(m, stops[1]), size)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _has_kernel(q: Tensor) -> bool:
    return q.device.type == "cuda" and q.dtype != torch.float64 and find_spec("triton") is not None


@attend_blocks.register_fake
def _(
    q_GNE: Tensor, k_GTE: Tensor, v_GTE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    return q_GNE.new_empty(q_GNE.shape), q_GNE.new_empty(q_GNE.shape[:2], dtype=_wide(q_GNE))


@attend_blocks_backward.register_fake
def _(do_GNE: Tensor, dlse_GN: Tensor | None, inputs: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.diagonal = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, do_GNE: Tensor | None, dlse_GN: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse = ctx.saved_tensors
    do_GNE = torch.zeros_like(out) if do_GNE is None else do_GNE
    return *attend_blocks_backward(do_GNE, dlse_GN, tensors, ctx.diagonal, out, lse), None, None, None


attend_blocks.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.fma.attend_blocks, get_raw=True)
def _flops(q_GNE: Tensor, k_GTE: Tensor, v_GTE: Tensor, index_MS: Tensor, *args: Any, out_val: Any = None) -> int:
    """Every query times every slot of its list, masked or not, times q k^T and p v."""
    return 2 * 2 * q_GNE.numel() * index_MS.shape[1]


@register_flop_formula(torch.ops.fma.attend_blocks_backward, get_raw=True)
def _flops_backward(
    do_GNE: Tensor, dlse_GN: Tensor | None, inputs: list[Tensor], *args: Any, out_val: Any = None
) -> int:
    q_GNE, _, _, index_MS, _ = inputs
    return 5 * 2 * q_GNE.numel() * index_MS.shape[1]  # q k^T again, and two products for each
