"""Multipole attention whose windows tile the grids, on the CPU: in chunks that stay in cache, little of it kept.

The operator ``mano::tiled_multipole`` goes through the tokens of all levels a few at a time: what a chunk needs between
its input and its output is never written to memory, and the backward pass computes it anew (a sixth more matrix
products) instead of reading it back. Kept are X_l and R_l of the coarse levels, two thirds of the input.
Few large tensors are allocated: the first touch of fresh memory can cost as much as the arithmetic on it.

Most layers run as compiled code (:mod:`mano.tiled.cpp`), a few windows at a time. What that does not serve, and
machines without a C++ compiler, take torch's operations (:mod:`mano.tiled.eager`), a few thousand tokens at a time;
kept are then the attention probabilities of small windows too, which take many steps to compute and for 2 x 2 are a
third of the input.

Axes in names: B batch, H W grid, C channels, K x K cells of a window, R rows of windows of all samples, P = K * K,
M windows of a chunk, T = P * M tokens of a chunk, A heads, E channels of a head, F = A * E, N x N cells that a coarse
one, with O channels, becomes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mano.levels import ceil_div, level_grids
from mano.tiled import cpp, eager
from mano.tiled.layer import Levels, Sizes, Weights, room


@torch.library.custom_op("mano::tiled_multipole", mutates_args=())
def tiled_multipole(
    x_BHWC: Tensor,
    norms: list[Tensor],
    qkv: Tensor,
    out: Tensor,
    bias: Tensor,
    down: Tensor,
    up: Tensor,
    level_weights: Tensor,
    heads: int,
    window: int,
    eps: float,
    keep: bool,
    compiled: bool,
) -> list[Tensor]:
    """Return R_0, then what the backward pass needs: X_1, X_2, ..., R_1, R_2, ... and the attention probabilities.

    Cells that complete the last windows beyond a grid are attended to by none.

    Args:
        x_BHWC: X_0.
        norms: weight and bias of one LayerNorm or of two, applied one after the other.
        qkv: weights of queries, keys and values, (3F, C).
        out: weights of the output projection, (C, F).
        bias: of the output projection, (C,).
        down: weights of D, (C, C, rate, rate).
        up: weights of U, (C, C, rate, rate).
        level_weights: w_0, w_1, ..., one less than there are levels.
        heads: attention heads.
        window: side of a window, in cells, and distance between windows.
        eps: of the LayerNorms.
        keep: whether to keep the attention probabilities, which compiled code cannot; without, the backward pass
            computes them anew. Shapes must not depend on more than the arguments: compiled graphs are kept on disk.
        compiled: whether compiled code may be used where it serves the layer.
    """
    weights, sizes = Weights(norms, qkv, out, bias, down, up, level_weights), Sizes(heads, window, eps)
    code = code_of(x_BHWC, weights, sizes) if compiled and not keep else None
    if code is not None:
        return cpp.forward(code, x_BHWC, weights, sizes).pack()
    return eager.forward(x_BHWC, weights, sizes, keep).pack()


@torch.library.custom_op("mano::tiled_multipole_backward", mutates_args=())
def tiled_multipole_backward(
    grad_BHWC: Tensor,
    xs: list[Tensor],
    coarse: list[Tensor],
    kept: Tensor,
    norms: list[Tensor],
    qkv: Tensor,
    out: Tensor,
    bias: Tensor,
    down: Tensor,
    up: Tensor,
    level_weights: Tensor,
    heads: int,
    window: int,
    eps: float,
    compiled: bool,
) -> list[Tensor]:
    """Return the gradients by X_0 and by ``norms`` ... ``level_weights``, in this order, as one list.

    Args:
        grad_BHWC: by R_0.
        xs: X_0, X_1, ...
        coarse: R_1, R_2, ...
        kept: the attention probabilities, (A, P, P, windows).
        norms, qkv, out, bias, down, up, level_weights, heads, window, eps, compiled: as in :func:`tiled_multipole`.
    """
    weights, sizes = Weights(norms, qkv, out, bias, down, up, level_weights), Sizes(heads, window, eps)
    levels = Levels(xs, [grad_BHWC, *coarse], kept)  # the backward pass does not read R_0
    code = code_of(grad_BHWC, weights, sizes) if compiled and not kept.numel() else None
    if code is not None:
        return cpp.backward(code, grad_BHWC, levels, weights, sizes)
    return eager.backward(grad_BHWC, levels, weights, sizes)


@tiled_multipole.register_fake
def _(x_BHWC, norms, qkv, out, bias, down, up, level_weights, heads, window, eps, keep, compiled):
    b, h, w, c = x_BHWC.shape
    grids = level_grids((h, w), window, down.shape[-1], len(level_weights) + 1)
    xs, results = ([x_BHWC.new_empty(b, *grid, c) for grid in grids] for _ in range(2))
    return Levels(xs, results, room(xs, heads, window, keep)).pack()


@tiled_multipole_backward.register_fake
def _(grad_BHWC, xs, coarse, kept, norms, qkv, out, bias, down, up, level_weights, heads, window, eps, compiled):
    return [w.new_empty(w.shape) for w in (xs[0], *norms, qkv, out, bias, down, up, level_weights)]


def _save(ctx, inputs, output):
    x_BHWC, norms, *weights, heads, window, eps, _, compiled = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x_BHWC, *output[1:], *norms, *weights)
    ctx.counts = len(output), len(norms)
    ctx.options = heads, window, eps, compiled


def _backward(ctx, grads):
    (outputs, n), (x_BHWC, *saved) = ctx.counts, ctx.saved_tensors
    xs, (_, *coarse), kept = Levels.unpack(x_BHWC, [x_BHWC, *saved[: outputs - 1]])
    weights = saved[outputs - 1 :]
    grad = torch.zeros_like(x_BHWC) if grads[0] is None else grads[0]
    found = tiled_multipole_backward(grad, xs, coarse, kept, weights[:n], *weights[n:], *ctx.options)
    scales = found[-3:] if coarse else [None] * 3  # with one level there is neither D nor U
    return found[0], found[1 : n + 1], *found[n + 1 : -3], *scales, *[None] * 5


tiled_multipole.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mano.tiled_multipole, get_raw=True)
def _flops(x, norms, qkv, out, bias, down, up, level_weights, heads, window, *args, out_val=None) -> int:
    xs = Levels.unpack(x, out_val).xs
    return _attention_flops(xs, qkv, window, 4, 2) + 2 * _scaling_flops(xs, down)


@register_flop_formula(torch.ops.mano.tiled_multipole_backward, get_raw=True)
def _flops_backward(grad, xs, coarse, kept, norms, qkv, out, bias, down, up, *args, out_val=None) -> int:
    # Two products for each of the forward pass, and once more those that are computed anew.
    return _attention_flops(xs, qkv, args[2], 11, 5 if kept.numel() else 6) + 4 * _scaling_flops(xs, down)


def _attention_flops(xs, qkv: Tensor, window: int, projections: int, attentions: int) -> int:
    grids = ((len(x), *(ceil_div(n, window) * window for n in x.shape[1:3])) for x in xs)
    cells = sum(b * h * w for b, h, w in grids)
    return 2 * cells * (len(qkv) // 3) * (projections * qkv.shape[1] + attentions * window**2)


def _scaling_flops(xs, down: Tensor) -> int:
    return sum(2 * x[..., 0].numel() * down.numel() for x in xs[1:])


def code_of(x: Tensor, weights: Weights, sizes: Sizes) -> cpp.Code | None:
    """Return compiled code for tensors that fit together, if it can be had."""
    (norms, qkv, out, bias, down, up, _), (heads, window, _) = weights, sizes
    kind = cpp.Kind(x.dtype, x.shape[-1], heads, len(qkv) // 3 // heads, window, down.shape[-1], len(norms) // 2)
    c, f, rate = kind.channels, heads * kind.head_dim, kind.rate
    shapes = [(3 * f, c), (c, f), (c,), (c, c, rate, rate), (c, c, rate, rate), *[(c,)] * (2 * kind.norms)]
    tensors = [qkv, out, bias, down, up, *norms]
    # What does not fit would be read as if it did; torch's operations say what is wrong.
    fit = len(tensors) == len(shapes) and all(
        (w.shape, w.dtype, w.device) == (shape, x.dtype, x.device) for w, shape in zip(tensors, shapes, strict=True)
    )
    return cpp.code(kind) if fit and 0 not in x.shape[1:3] else None
