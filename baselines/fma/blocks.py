"""Softmax attention of blocks of queries, each to its own list of key rows: the operator ``fma::attend_blocks``.

Near tokens and summaries of every level are rows of one buffer, and a block of queries has the list of the rows it
reads, so that all levels share one softmax. On CUDA it is a Triton kernel (:mod:`baselines.fma.kernels`) that reads
the rows where they are, as does C++ on the CPU (:mod:`baselines.fma.cpp_blocks`); without a compiler, or for heads that
do not fill registers, it is torch's flash attention of a few blocks at a time (:mod:`baselines.fma.cpu_blocks`),
elsewhere matrix products (:mod:`baselines.fma.tensor_blocks`). The backward pass computes the scores again, so that
memory grows only with the rows and the lists.

Axes in names: B batch, H heads, M blocks, I queries of a block, N = M * I, T rows of keys, S rows that a block reads,
E channels of a head, G samples times heads.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from attn_bench.nn.precision import wide_dtype
from baselines.fma import cpp_blocks, cpu_blocks


@torch.library.custom_op("fma::attend_blocks", mutates_args=())
def attend_blocks(
    q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    """Return softmax(Q K^T / sqrt(E) + bias) V over the rows that each block reads, and the log-sum-exp, (B, N, H).

    A query that reads no row gets zeros and :data:`baselines.fma.tensor_blocks.NOTHING`.

    Args:
        q_BNHE: queries, block after block.
        k_BTHE: keys.
        v_BTHE: values.
        index_MS: int32, the rows that a block reads; -1 for none.
        bias_T: added to the scores of a key.
        diagonal: slot of the lists from which on they hold the block itself, of which query i reads no row after its
            own; slots after the block are read by all. -1 where queries of a block all read the same.
    """
    if q_BNHE.device.type == "cpu":
        on_cpu = cpp_blocks.library_for(q_BNHE) or cpu_blocks
        return on_cpu.forward(q_BNHE, k_BTHE, v_BTHE, index_MS, bias_T, diagonal)
    groups = [_groups(x) for x in (q_BNHE, k_BTHE, v_BTHE)]
    out, lse = _implementation(q_BNHE).forward(*groups, index_MS, bias_T, diagonal)
    return _samples(out, q_BNHE), _samples(lse, q_BNHE)


@torch.library.custom_op("fma::attend_blocks_backward", mutates_args=())
def attend_blocks_backward(
    do_BNHE: Tensor,
    dlse_BNH: Tensor | None,
    inputs: list[Tensor],
    diagonal: int,
    out_BNHE: Tensor,
    lse_BNH: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by queries, keys and values.

    Args:
        do_BNHE: by the output.
        dlse_BNH: by the log-sum-exp, if it has a gradient.
        inputs: the tensors that :func:`attend_blocks` took.
        diagonal: as there.
        out_BNHE, lse_BNH: what it returned.
    """
    if do_BNHE.device.type == "cpu":
        on_cpu = cpp_blocks.library_for(do_BNHE) or cpu_blocks
        return on_cpu.backward(do_BNHE, dlse_BNH, inputs, diagonal, out_BNHE, lse_BNH)
    q, k, v, *lists = inputs
    delta_BNH = (do_BNHE * out_BNHE).sum(-1, dtype=lse_BNH.dtype)
    if dlse_BNH is not None:
        delta_BNH -= dlse_BNH
    do, delta, lse, *groups = (_groups(x) for x in (do_BNHE, delta_BNH, lse_BNH, q, k, v))
    dq, dk, dv = _implementation(q).backward(do, delta, [*groups, *lists], diagonal, lse)
    return _samples(dq, q), _samples(dk, q), _samples(dv, q)


def _implementation(q: Tensor) -> Any:
    kernel = q.device.type == "cuda" and q.dtype != torch.float64 and find_spec("triton") is not None
    return import_module(f"baselines.fma.{'kernels' if kernel else 'tensor_blocks'}")


def _groups(x: Tensor) -> Tensor:
    """Store (B, N, H, ...) head by head, (G, N, ...)."""
    return x.transpose(1, 2).flatten(0, 1).contiguous()


def _samples(x: Tensor, like_BNHE: Tensor) -> Tensor:
    """Undo :func:`_groups`."""
    return x.unflatten(0, (len(like_BNHE), -1)).transpose(1, 2).contiguous()


@attend_blocks.register_fake
def _(
    q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
) -> tuple[Tensor, Tensor]:
    return q_BNHE.new_empty(q_BNHE.shape), q_BNHE.new_empty(q_BNHE.shape[:3], dtype=wide_dtype(q_BNHE.dtype))


@attend_blocks_backward.register_fake
def _(do_BNHE: Tensor, dlse_BNH: Tensor | None, inputs: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.diagonal = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, do_BNHE: Tensor | None, dlse_BNH: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse = ctx.saved_tensors
    do_BNHE = torch.zeros_like(out) if do_BNHE is None else do_BNHE
    return *attend_blocks_backward(do_BNHE, dlse_BNH, tensors, ctx.diagonal, out, lse), None, None, None


attend_blocks.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.fma.attend_blocks, get_raw=True)
def _flops(q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, *args: Any, out_val: Any = None) -> int:
    """Every query times every slot of its list, masked or not, times q k^T and p v."""
    return 2 * 2 * q_BNHE.numel() * index_MS.shape[1]


@register_flop_formula(torch.ops.fma.attend_blocks_backward, get_raw=True)
def _flops_backward(
    do_BNHE: Tensor, dlse_BNH: Tensor | None, inputs: list[Tensor], *args: Any, out_val: Any = None
) -> int:
    q_BNHE, _, _, index_MS, _ = inputs
    return 5 * 2 * q_BNHE.numel() * index_MS.shape[1]  # q k^T again, and two products for each
