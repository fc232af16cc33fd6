"""Multipole attention on the CPU, all steps together: in chunks that stay in cache, with little storage.

The operator ``mano::tiled_multipole`` processes the cells of all levels a few at a time: intermediate results of a
chunk are never written to memory, and the backward pass computes them again (a sixth more matrix products) instead of
reading them back. X_l and R_l of the coarse levels are stored, two thirds of the input.
Few large tensors are allocated, as the first touch of fresh memory can cost as much as the arithmetic on it.

Most layers with windows up to 8 x 8 run in C++ (:mod:`mano.tiled.cpp`), a few windows at a time. Layers that it does
not support, and machines without a C++ compiler, take torch's operations (:mod:`mano.tiled.eager`), a few thousand
cells at a time; these need windows side by side (for others there is :mod:`mano.overlapping`), and also store the
attention probabilities of small windows, which take many steps to compute and for 2 x 2 are a third of the input.

Axes in names: B batch, H W grid, C channels, K x K cells of a window, R rows of windows of all samples, P = K * K,
M windows of a chunk, T = P * M cells of a chunk, A heads, E channels of a head, F = A * E, N x N cells that a coarse
one, with O channels, becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mano.levels import level_grids
from mano.tiled import cpp, eager
from mano.tiled.layer import Levels, Sizes, Weights, count_windows, empty_probabilities


@torch.library.custom_op("mano::tiled_multipole", mutates_args=())
def tiled_multipole(
    x_BHWC: Tensor,
    weights: list[Tensor],
    heads: int,
    window_size: int,
    stride: int,
    eps: float,
    store_probabilities: bool,
    use_cpp: bool,
) -> list[Tensor]:
    """Return R_0 and the tensors for the backward pass, in the order of :meth:`Levels.pack`.

    Cells that complete the last windows beyond a grid are not attended to.

    Args:
        x_BHWC: X_0.
        weights: :meth:`Weights.pack`.
        heads: attention heads.
        window_size, stride: side of a window, and distance between windows, in cells.
        eps: of the LayerNorms.
        store_probabilities: whether to store the attention probabilities, which C++ cannot; without, the backward pass
            computes them again. Shapes must depend only on the arguments, as compiled graphs are cached on disk.
        use_cpp: whether C++ may be used if it supports the layer.
    """
    layer, sizes = Weights.unpack(weights), Sizes(heads, window_size, stride, eps)
    library = cpp.library_for(x_BHWC, layer, sizes) if use_cpp and not store_probabilities else None
    if library is not None:
        return cpp.forward(library, x_BHWC, layer, sizes).pack()
    _check_side_by_side(sizes)
    return eager.forward(x_BHWC, layer, sizes, store_probabilities).pack()


@torch.library.custom_op("mano::tiled_multipole_backward", mutates_args=())
def tiled_multipole_backward(
    grad_BHWC: Tensor,
    x_BHWC: Tensor,
    stored: list[Tensor],
    weights: list[Tensor],
    heads: int,
    window_size: int,
    stride: int,
    eps: float,
    use_cpp: bool,
) -> list[Tensor]:
    """Return the gradients by X_0 and by ``weights``, as one list.

    Args:
        grad_BHWC: by R_0.
        x_BHWC: X_0.
        stored: what the forward pass returned after R_0.
        weights, heads, window_size, stride, eps, use_cpp: as in :func:`tiled_multipole`.
    """
    layer, sizes = Weights.unpack(weights), Sizes(heads, window_size, stride, eps)
    levels = Levels.unpack(x_BHWC, [grad_BHWC, *stored])  # the backward pass does not read R_0
    library = cpp.library_for(grad_BHWC, layer, sizes) if use_cpp and not levels.probabilities.numel() else None
    if library is not None:
        return cpp.backward(library, grad_BHWC, levels, layer, sizes)
    _check_side_by_side(sizes)
    return eager.backward(grad_BHWC, levels, layer, sizes)


def _check_side_by_side(sizes: Sizes) -> None:
    if sizes.stride < sizes.window_size:
        raise ValueError("overlapping windows need C++, which does not support these tensors")


@tiled_multipole.register_fake
def _(
    x_BHWC: Tensor,
    weights: list[Tensor],
    heads: int,
    window_size: int,
    stride: int,
    eps: float,
    store_probabilities: bool,
    use_cpp: bool,
) -> list[Tensor]:
    b, h, w, c = x_BHWC.shape
    layer, sizes = Weights.unpack(weights), Sizes(heads, window_size, stride, eps)
    grids = level_grids((h, w), window_size, layer.down.shape[-1], len(layer.level_weights) + 1)
    xs, results = ([x_BHWC.new_empty(b, *grid, c) for grid in grids] for _ in range(2))
    return Levels(xs, results, empty_probabilities(xs, sizes, store_probabilities)).pack()


@tiled_multipole_backward.register_fake
def _(grad_BHWC: Tensor, x_BHWC: Tensor, stored: list[Tensor], weights: list[Tensor], *args: Any) -> list[Tensor]:
    return [w.new_empty(w.shape) for w in (x_BHWC, *weights)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x_BHWC, weights, *ctx.sizes, _, ctx.use_cpp = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x_BHWC, *output[1:], *weights)
    ctx.stored = len(output) - 1


def _backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    x_BHWC, *saved = ctx.saved_tensors
    stored, weights = saved[: ctx.stored], saved[ctx.stored :]
    grad = torch.zeros_like(x_BHWC) if grads[0] is None else grads[0]
    d_x, *found = tiled_multipole_backward(grad, x_BHWC, stored, weights, *ctx.sizes, ctx.use_cpp)
    d_weights: list[Tensor | None] = list(found)
    if ctx.stored == 1:
        d_weights[3:6] = [None] * 3  # one level has neither D nor U
    return d_x, d_weights, *[None] * 6


tiled_multipole.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mano.tiled_multipole, get_raw=True)
def _flops(
    x: Tensor, weights: list[Tensor], heads: int, window_size: int, stride: int, *args: Any, out_val: list[Tensor]
) -> int:
    xs, layer = Levels.unpack(x, out_val).xs, Weights.unpack(weights)
    return _attention_flops(xs, layer.qkv, window_size, stride, 4, 2) + 2 * _scaling_flops(xs, layer.down)


@register_flop_formula(torch.ops.mano.tiled_multipole_backward, get_raw=True)
def _flops_backward(
    grad: Tensor,
    x: Tensor,
    stored: list[Tensor],
    weights: list[Tensor],
    heads: int,
    window_size: int,
    stride: int,
    *args: Any,
    out_val: list[Tensor],
) -> int:
    levels, layer = Levels.unpack(x, [grad, *stored]), Weights.unpack(weights)
    # Two products for each one of the forward pass, and those that are computed again.
    attentions = 5 if levels.probabilities.numel() else 6
    attention = _attention_flops(levels.xs, layer.qkv, window_size, stride, 11, attentions)
    return attention + 4 * _scaling_flops(levels.xs, layer.down)


def _attention_flops(
    xs: list[Tensor], qkv: Tensor, window_size: int, stride: int, projections: int, attentions: int
) -> int:
    """Every pair of query and key of every window, masked or not; windows side by side project all their cells."""
    windows = count_windows(xs, window_size, stride)
    cells = windows * window_size**2 if stride == window_size else sum(x[..., 0].numel() for x in xs)
    pairs = windows * window_size**4
    return 2 * (len(qkv) // 3) * (projections * cells * qkv.shape[1] + attentions * pairs)


def _scaling_flops(xs: list[Tensor], down: Tensor) -> int:
    return sum(2 * x[..., 0].numel() * down.numel() for x in xs[1:])
