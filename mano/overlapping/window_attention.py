"""Attention in windows of any stride, for the tokens of all levels together: the operator ``mano::window_attention``.

On CUDA it is a Triton kernel (:mod:`mano.overlapping.kernels`), elsewhere, and with dropout, tensor operations. On the
CPU these serve what C++ (:mod:`mano.tiled.cpp`) does not.

Axes in names: T tokens of all levels (level after level, each B, H, W row by row), B batch, H W grid, A heads,
E channels of a head, F = A * E, P cells of a window, M windows of all levels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mano.attend import attend, attend_backward
from mano.levels import window_counts
from mano.overlapping.layout import Windows


@torch.library.custom_op("mano::window_attention", mutates_args=())
def window_attention(
    qkv_TF: Tensor, windows: list[int], factors: Tensor | None, use_kernel: bool
) -> tuple[Tensor, Tensor]:
    """Attend within the windows of every level and average where they overlap: (T, 3F) -> (T, F).

    The second result is stored by the kernel for the backward pass; empty if the kernel is not used.

    Args:
        qkv_TF: queries, keys and values, heads inside.
        windows: the numbers of :class:`mano.overlapping.layout.Windows`; torch operators accept only plain tuples.
        factors: of the attention probabilities (dropout), (A, P, P, M).
        use_kernel: whether the kernel may be used if it supports the input.
    """
    layout = Windows(*windows)
    if use_kernel and _has_kernel(qkv_TF, factors):
        from mano.overlapping.kernels import forward

        return forward(qkv_TF, layout)
    with torch.autocast(qkv_TF.device.type, enabled=False):
        qkv_3AEPM = layout.split(qkv_TF).unflatten(0, (3, layout.heads, -1))
        o_AEPM, _ = attend(qkv_3AEPM, layout.real(qkv_TF.device), factors)
        return layout.join(o_AEPM.flatten(0, 1)).div_(layout.coverage(qkv_TF)), qkv_TF.new_empty(0)


@torch.library.custom_op("mano::window_attention_backward", mutates_args=())
def window_attention_backward(
    grad_TF: Tensor,
    qkv_TF: Tensor,
    statistics: Tensor,
    windows: list[int],
    factors: Tensor | None,
    use_kernel: bool,
) -> Tensor:
    """Return the gradient by ``qkv_TF``.

    Args:
        grad_TF: by the first result.
        statistics: the second result.
        qkv_TF, windows, factors, use_kernel: as in :func:`window_attention`.
    """
    layout = Windows(*windows)
    if use_kernel and _has_kernel(qkv_TF, factors):
        from mano.overlapping.kernels import backward

        return backward(grad_TF, qkv_TF, statistics, layout)
    with torch.autocast(qkv_TF.device.type, enabled=False):
        qkv_3AEPM = layout.split(qkv_TF).unflatten(0, (3, layout.heads, -1))
        _, p_APPM = attend(qkv_3AEPM, layout.real(qkv_TF.device), factors)
        grad_AEPM = layout.split(grad_TF / layout.coverage(grad_TF)).unflatten(0, (layout.heads, -1))
        return layout.join(attend_backward(grad_AEPM, qkv_3AEPM, p_APPM, factors).flatten(0, 2))


def _has_kernel(qkv_TF: Tensor, factors: Tensor | None) -> bool:
    return qkv_TF.device.type == "cuda" and factors is None and qkv_TF.dtype != torch.float64


@window_attention.register_fake
def _(qkv_TF: Tensor, windows: list[int], factors: Tensor | None, use_kernel: bool) -> tuple[Tensor, Tensor]:
    layout = Windows(*windows)
    out = qkv_TF.new_empty(len(qkv_TF), qkv_TF.shape[1] // 3)
    if not (use_kernel and _has_kernel(qkv_TF, factors)):
        return out, qkv_TF.new_empty(0)
    return out, qkv_TF.new_empty(len(qkv_TF), layout.heads, layout.slots**2, dtype=torch.float32)


@window_attention_backward.register_fake
def _(grad_TF: Tensor, qkv_TF: Tensor, statistics: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(qkv_TF)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv_TF, ctx.windows, factors, ctx.use_kernel = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv_TF, output[1], factors)


def _backward(ctx: Any, grad_TF: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    qkv_TF, statistics, factors = ctx.saved_tensors
    if grad_TF is None:
        grad_TF = qkv_TF.new_zeros(len(qkv_TF), qkv_TF.shape[1] // 3)
    return window_attention_backward(grad_TF, qkv_TF, statistics, ctx.windows, factors, ctx.use_kernel), *[None] * 3


window_attention.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mano.window_attention, get_raw=True)
def _flops(qkv_TF: Tensor, windows: list[int], *args: Any, out_val: Any = None) -> int:
    """Every pair of query and key of every window, masked or not, times q k^T and p v."""
    layout = Windows(*windows)
    side, stride = layout.window_size, layout.stride
    count = layout.batch * sum(math.prod(window_counts(grid, side, stride)) for grid in layout.grids)
    return 2 * 2 * count * side**4 * (qkv_TF.shape[1] // 3)


@register_flop_formula(torch.ops.mano.window_attention_backward, get_raw=True)
def _flops_backward(
    grad_TF: Tensor, qkv_TF: Tensor, statistics: Tensor, windows: list[int], *args: Any, out_val: Any = None
) -> int:
    return 3 * _flops(qkv_TF, windows)  # both products again, and two for each
