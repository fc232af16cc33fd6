"""Attention in windows of any stride, for the tokens of all levels together: the operator ``mano::window_attention``.

On CUDA it is a Triton kernel (:mod:`mano.overlapping.kernels`), elsewhere, and with dropout, tensor operations.

Axes in names: T tokens of all levels (level after level, each B, H, W row by row), B batch, H W grid, A heads,
E channels of a head, F = A * E, P cells of a window, M windows of all levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mano.levels import ceil_div, level_grids, window_counts
from mano.overlapping.layout import coverage, fits, real_cells, sum_windows, to_windows
from mano.windows import attend, attend_backward


@torch.library.custom_op("mano::window_attention", mutates_args=())
def window_attention(
    qkv_TF: Tensor,
    batch: int,
    height: int,
    width: int,
    levels: int,
    rate: int,
    heads: int,
    window: int,
    stride: int,
    keep: Tensor | None,
    kernel: bool,
) -> tuple[Tensor, Tensor]:
    """Attend within the windows of every level and average where they overlap: (T, 3F) -> (T, F).

    The second result is what the kernel keeps for the backward pass; empty where there is no kernel.

    Args:
        qkv_TF: queries, keys and values, heads inside.
        batch: samples.
        height, width: of the finest level.
        levels: how many there are.
        rate: factor between the grids of two levels.
        heads: attention heads.
        window: side of a window, in cells.
        stride: distance between windows.
        keep: factors for the attention probabilities (dropout), (A, P, P, M).
        kernel: whether the kernel may be used where it serves.
    """
    if kernel and _has_kernel(qkv_TF, keep):
        from mano.overlapping.kernels import forward

        return forward(qkv_TF, batch, (height, width), levels, rate, heads, window, stride)
    layout = _Layout(batch, height, width, levels, rate, window, stride)
    with torch.autocast(qkv_TF.device.type, enabled=False):
        qkv_3AEPM = layout.split(qkv_TF).unflatten(0, (3, heads, -1))
        o_AEPM, _ = attend(qkv_3AEPM, layout.real(qkv_TF.device), keep)
        return layout.join(o_AEPM.flatten(0, 1)).div_(layout.coverage(qkv_TF)), qkv_TF.new_empty(0)


@torch.library.custom_op("mano::window_attention_backward", mutates_args=())
def window_attention_backward(
    grad_TF: Tensor,
    qkv_TF: Tensor,
    statistics: Tensor,
    batch: int,
    height: int,
    width: int,
    levels: int,
    rate: int,
    heads: int,
    window: int,
    stride: int,
    keep: Tensor | None,
    kernel: bool,
) -> Tensor:
    """Return the gradient by ``qkv_TF``."""
    if kernel and _has_kernel(qkv_TF, keep):
        from mano.overlapping.kernels import backward

        return backward(grad_TF, qkv_TF, statistics, batch, (height, width), levels, rate, heads, window, stride)
    layout = _Layout(batch, height, width, levels, rate, window, stride)
    with torch.autocast(qkv_TF.device.type, enabled=False):
        qkv_3AEPM = layout.split(qkv_TF).unflatten(0, (3, heads, -1))
        _, p_APPM = attend(qkv_3AEPM, layout.real(qkv_TF.device), keep)
        grad_AEPM = layout.split(grad_TF / layout.coverage(grad_TF)).unflatten(0, (heads, -1))
        return layout.join(attend_backward(grad_AEPM, qkv_3AEPM, p_APPM, keep).flatten(0, 2))


def _has_kernel(qkv_TF: Tensor, keep: Tensor | None) -> bool:
    return qkv_TF.device.type == "cuda" and keep is None and qkv_TF.dtype != torch.float64


class _Layout:
    """The grids of T tokens, and their windows."""

    def __init__(self, batch: int, height: int, width: int, levels: int, rate: int, window: int, stride: int) -> None:
        self.grids = level_grids((height, width), window, rate, levels)
        self.batch, self.window, self.stride = batch, window, stride

    def split(self, x_TF: Tensor) -> Tensor:
        """Lay tokens out in windows, copying those that several hold: (T, F) -> (F, P, M)."""
        parts = []
        for x, grid in zip(x_TF.split([self.batch * h * w for h, w in self.grids]), self.grids, strict=True):
            x_FBHW = x.view(self.batch, *grid, -1).permute(3, 0, 1, 2)
            parts.append(to_windows(x_FBHW, self.window, self.stride))
        return torch.cat(parts, 2)

    def join(self, x_FPM: Tensor) -> Tensor:
        """Sum over the windows that hold a token: (F, P, M) -> (T, F)."""
        windows = [self.batch * math.prod(window_counts(grid, self.window, self.stride)) for grid in self.grids]
        parts = [
            sum_windows(x, self.window, self.stride, self.batch, grid).flatten(1)
            for x, grid in zip(x_FPM.split(windows, 2), self.grids, strict=True)
        ]
        return torch.cat(parts, 1).t().contiguous()

    def coverage(self, like: Tensor) -> Tensor:
        """Return how many windows hold each token, (T, 1)."""
        counts = [coverage(self.window, self.stride, grid, like).flatten().repeat(self.batch) for grid in self.grids]
        return torch.cat(counts)[:, None]

    def real(self, device: torch.device) -> Tensor | None:
        """Return which cells of the windows lie on the grids, (P, M), or None if all do."""
        if all(fits(self.window, self.stride, grid) for grid in self.grids):
            return None
        masks = [real_cells(self.window, self.stride, self.batch, grid, device) for grid in self.grids]
        return torch.cat(masks, 1)


@window_attention.register_fake
def _(qkv_TF, batch, height, width, levels, rate, heads, window, stride, keep, kernel):
    out = qkv_TF.new_empty(len(qkv_TF), qkv_TF.shape[1] // 3)
    if not (kernel and _has_kernel(qkv_TF, keep)):
        return out, qkv_TF.new_empty(0)
    return out, qkv_TF.new_empty(len(qkv_TF), heads, ceil_div(window, stride) ** 2, dtype=torch.float32)


@window_attention_backward.register_fake
def _(grad_TF, qkv_TF, statistics, *args):
    return torch.empty_like(qkv_TF)


def _save(ctx, inputs, output):
    qkv_TF, *ctx.sizes, keep, ctx.kernel = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv_TF, output[1], keep)


def _backward(ctx, grad_TF, _):
    qkv_TF, statistics, keep = ctx.saved_tensors
    if grad_TF is None:
        grad_TF = qkv_TF.new_zeros(len(qkv_TF), qkv_TF.shape[1] // 3)
    return window_attention_backward(grad_TF, qkv_TF, statistics, *ctx.sizes, keep, ctx.kernel), *[None] * 10


window_attention.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mano.window_attention, get_raw=True)
def _flops(qkv_TF, batch, height, width, levels, rate, heads, window, stride, *args, out_val=None) -> int:
    """Every pair of query and key of every window, masked or not, times q k^T and p v."""
    grids = level_grids((height, width), window, rate, levels)
    windows = batch * sum(math.prod(window_counts(grid, window, stride)) for grid in grids)
    return 2 * 2 * windows * window**4 * (qkv_TF.shape[1] // 3)


@register_flop_formula(torch.ops.mano.window_attention_backward, get_raw=True)
def _flops_backward(grad_TF, qkv_TF, statistics, *sizes, out_val=None) -> int:
    return 3 * _flops(qkv_TF, *sizes)  # both products anew, and two for each
