"""Multipole attention whose windows tile the grids, on the CPU: in chunks that stay in cache, little of it kept.

The operator ``mano::tiled_multipole`` goes through the tokens of all levels a few at a time: what a chunk needs between
its input and its output is never written to memory, and the backward pass computes it anew (a sixth more matrix
products) instead of reading it back. Kept are X_l and R_l of the coarse levels, two thirds of the input.
Few large tensors are allocated: the first touch of fresh memory can cost as much as the arithmetic on it.

Most layers run as compiled code (:mod:`mano.tiled.cpp`), a few windows at a time. What that does not serve, and
machines without a C++ compiler, take torch's operations, a few thousand tokens at a time; kept are then the attention
probabilities of small windows too, which take many steps to compute and for 2 x 2 are a third of the input.

Axes in names: B batch, H W grid, C channels, K x K cells of a window, R rows of windows of all samples, P = K * K,
M windows of a chunk, T = P * M tokens of a chunk, A heads, E channels of a head, F = A * E, N x N cells that a coarse
one, with O channels, becomes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from attn_bench.nn.linear import product
from mano.levels import ceil_div, level_grids, window_counts
from mano.tiled import chunks
from mano.tiled import cpp as native
from mano.tiled.sampling import add_up_sampled, down_sample, weight_gradient
from mano.windows import attend, attend_backward, average, wide_dtype

TOKENS_PER_THREAD = 2752


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
    """
    code = None if keep else _code(x_BHWC, norms, qkv, out, bias, down, up, heads, window)
    if code is not None:
        down_NNCO, up_ONNC = down.permute(2, 3, 1, 0).contiguous(), up.permute(0, 2, 3, 1).contiguous()
        xs = [x_BHWC.contiguous()]
        for _ in level_weights:
            xs.append(code.down_sample(xs[-1], down_NNCO))
        results, _ = code.attention(xs, None, norms, qkv, out, bias, eps)
        for l, level_weight in reversed(list(enumerate(level_weights.to(up.dtype)))):
            code.add_up_sampled(results[l], results[l + 1], up_ONNC * level_weight)
        return [results[0], *xs[1:], *results[1:], _room(xs, heads, window, False)]
    with torch.autocast("cpu", enabled=False):
        down = down.contiguous(memory_format=torch.channels_last)  # as convolutions want it
        xs = [x_BHWC]
        for _ in level_weights:
            xs.append(down_sample(xs[-1], down))
        complete = [chunks.complete(x, window) for x in xs]
        results = [torch.empty_like(x) for x in complete]
        tokens, outputs = chunks.windows(complete, window), chunks.windows(results, window)
        real = chunks.real(xs, window)
        kept = _room(xs, heads, window, keep)
        for chunk, place in chunks.window_chunks(tokens, TOKENS_PER_THREAD * torch.get_num_threads()):
            mask_PM = None if real is None else chunks.gather(real, chunk, True).view(window**2, -1)
            y_TC = _normalise(chunks.gather(tokens, chunk, 0), norms, eps)[-1][0]
            o_AEPM, p_APPM = attend(_project(y_TC, qkv, heads, window), mask_PM)
            if keep:
                kept[..., place] = p_APPM[..., : place.stop - place.start]
            out_CT = product(out, o_AEPM.view(-1, len(y_TC)).t()).add_(bias[:, None])
            chunks.scatter(out_CT.t(), outputs, chunk)
            del y_TC, o_AEPM, p_APPM, out_CT  # not to be held while the next chunk is computed
        results = chunks.crop(results, xs)
        for l in reversed(range(len(level_weights))):
            add_up_sampled(results[l], results[l + 1], up * level_weights[l].to(up.dtype))
    return [results[0], *xs[1:], *results[1:], kept]


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
) -> list[Tensor]:
    """Return the gradients by X_0 and by ``norms`` ... ``level_weights``, in this order, as one list.

    Args:
        grad_BHWC: by R_0.
        xs: X_0, X_1, ...
        coarse: R_1, R_2, ...
        kept: the attention probabilities, (A, P, P, windows).
        norms, qkv, out, bias, down, up, level_weights, heads, window, eps: as in :func:`tiled_multipole`.
    """
    code = None if kept.numel() else _code(grad_BHWC, norms, qkv, out, bias, down, up, heads, window)
    if code is not None:
        xs, coarse = [x.contiguous() for x in xs], [x.contiguous() for x in coarse]
        down_ONNC, up_NNCO = down.permute(0, 2, 3, 1).contiguous(), up.permute(2, 3, 1, 0).contiguous()
        grads, d_down, d_up = [grad_BHWC.contiguous()], torch.zeros_like(up_NNCO), torch.zeros_like(up_NNCO)
        d_level_weights = torch.zeros_like(level_weights)
        for l, level_weight in enumerate(level_weights.to(up.dtype)):
            d_scaled = code.weight_gradient(coarse[l], grads[l])
            d_level_weights[l] = (d_scaled * up_NNCO).sum()
            d_up += d_scaled * level_weight
            grads.append(code.down_sample(grads[l], up_NNCO * level_weight))
        results, found = code.attention(xs, grads, norms, qkv, out, bias, eps)
        for l in reversed(range(len(level_weights))):
            d_down += code.weight_gradient(results[l + 1], xs[l])
            code.add_up_sampled(results[l], results[l + 1], down_ONNC)
        scales = (d.permute(3, 2, 0, 1).contiguous() for d in (d_down, d_up))
        return [results[0], *found, *scales, d_level_weights]
    # What is summed over chunks and levels is summed in float32 at least.
    d_norms = [torch.zeros_like(w, dtype=wide_dtype(w.dtype)) for w in norms]
    d_qkv, d_out_FC, d_bias, d_down, d_up, d_level_weights = (
        torch.zeros(w.shape, dtype=wide_dtype(w.dtype)) for w in (qkv, out.t(), bias, down, up, level_weights)
    )
    down, up = (weight.contiguous(memory_format=torch.channels_last) for weight in (down, up))
    qkv_CF, out_FC = qkv.t().contiguous(), out.t().contiguous()
    with torch.autocast("cpu", enabled=False):
        grads = [grad_BHWC.contiguous()]
        for l, level_weight in enumerate(level_weights):
            d_scaled = weight_gradient(coarse[l], grads[l], up)
            d_level_weights[l] = (d_scaled * up).sum()
            d_up += d_scaled * level_weight
            grads.append(down_sample(grads[l], up * level_weight.to(up.dtype)))
        complete = [chunks.complete(x, window) for x in xs]
        results = [torch.empty_like(x) for x in complete]
        tokens, outputs = chunks.windows(complete, window), chunks.windows(results, window)
        from_above = chunks.windows([chunks.complete(grad, window) for grad in grads], window)
        real = None if kept.numel() else chunks.real(xs, window)
        totals = d_norms, d_qkv, d_out_FC, d_bias
        for chunk, place in chunks.window_chunks(tokens, TOKENS_PER_THREAD * torch.get_num_threads()):
            x_TC, g_TC = chunks.gather(tokens, chunk, 0), chunks.gather(from_above, chunk, 0)
            mask_PM = None if real is None else chunks.gather(real, chunk, True).view(window**2, -1)
            added = len(x_TC) // window**2 - (place.stop - place.start)
            p_APPM = F.pad(kept[..., place], (0, added)) if kept.numel() else None
            weights = norms, qkv, qkv_CF, out_FC
            d_TC = _chunk_backward(g_TC, x_TC, mask_PM, p_APPM, *weights, heads, window, eps, totals)
            chunks.scatter(d_TC, outputs, chunk)
        results = chunks.crop(results, xs)
        for l in reversed(range(len(level_weights))):
            d_down += weight_gradient(results[l + 1], xs[l], down)
            add_up_sampled(results[l], results[l + 1], down)
    found = (*d_norms, d_qkv, d_out_FC.t().contiguous(), d_bias, d_down, d_up, d_level_weights)
    weights = (*norms, qkv, out, bias, down, up, level_weights)
    return [results[0], *(d.to(w.dtype) for d, w in zip(found, weights, strict=True))]


def _chunk_backward(
    g_TC: Tensor,
    x_TC: Tensor,
    mask_PM: Tensor | None,
    p_APPM: Tensor | None,
    norms: list[Tensor],
    qkv: Tensor,
    qkv_CF: Tensor,
    out_FC: Tensor,
    heads: int,
    window: int,
    eps: float,
    totals: tuple[list[Tensor], Tensor, Tensor, Tensor],
) -> Tensor:
    """Return the gradient by ``x_TC`` and add those by the weights to ``totals``."""
    d_norms, d_qkv, d_out_FC, d_bias = totals
    steps = [(x_TC,), *_normalise(x_TC, norms, eps)]
    y_TC = steps[-1][0]
    qkv_3AEPM = _project(y_TC, qkv, heads, window)
    if p_APPM is None:
        o_AEPM, p_APPM = attend(qkv_3AEPM, mask_PM)
    else:
        o_AEPM = average(p_APPM, qkv_3AEPM[2])
    d_out_FC += product(o_AEPM.view(-1, len(y_TC)), g_TC.t())
    d_bias += g_TC.sum(0)
    do_AEPM = product(out_FC, g_TC).view_as(o_AEPM)
    del o_AEPM
    dqkv_FT = attend_backward(do_AEPM, qkv_3AEPM, p_APPM).view(-1, len(y_TC))
    del do_AEPM, qkv_3AEPM, p_APPM
    d_qkv += product(dqkv_FT, y_TC.t())
    # Copied as (P, M, C): torch copies transposed matrices with one thread.
    d_TC, d_CT = torch.empty_like(y_TC), product(qkv_CF, dqkv_FT.t())
    d_TC.unflatten(0, (window**2, -1)).copy_(d_CT.t().unflatten(0, (window**2, -1)))
    for i in reversed(range(len(steps) - 1)):
        d_TC, *d_norm = torch.ops.aten.native_layer_norm_backward(
            d_TC, steps[i][0], y_TC.shape[1:], *steps[i + 1][1:], *norms[2 * i : 2 * i + 2], [True, True, True]
        )
        torch._foreach_add_(d_norms[2 * i : 2 * i + 2], d_norm)
    return d_TC


@tiled_multipole.register_fake
def _(x_BHWC, norms, qkv, out, bias, down, up, level_weights, heads, window, eps, keep):
    b, h, w, c = x_BHWC.shape
    grids = level_grids((h, w), window, down.shape[-1], len(level_weights) + 1)
    results = [x_BHWC.new_empty(b, *grid, c) for grid in (*grids, *grids[1:])]
    return [*results, _room(results[: len(grids)], heads, window, keep)]


@tiled_multipole_backward.register_fake
def _(grad_BHWC, xs, coarse, kept, norms, qkv, out, bias, down, up, level_weights, heads, window, eps):
    return [w.new_empty(w.shape) for w in (xs[0], *norms, qkv, out, bias, down, up, level_weights)]


def _save(ctx, inputs, output):
    x_BHWC, norms, *weights, heads, window, eps, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x_BHWC, *output[1:], *norms, *weights)
    ctx.sizes = len(output) // 2 - 1, len(norms), heads, window, eps


def _backward(ctx, grads):
    coarse, n, *options = ctx.sizes
    saved = list(ctx.saved_tensors)
    xs, results, kept = saved[: coarse + 1], saved[coarse + 1 : 2 * coarse + 1], saved[2 * coarse + 1]
    weights = saved[2 * coarse + 2 :]
    grad = torch.zeros_like(xs[0]) if grads[0] is None else grads[0]
    found = tiled_multipole_backward(grad, xs, results, kept, weights[:n], *weights[n:], *options)
    scales = found[-3:] if coarse else [None] * 3  # with one level there is neither D nor U
    return found[0], found[1 : n + 1], *found[n + 1 : -3], *scales, None, None, None, None


tiled_multipole.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mano.tiled_multipole, get_raw=True)
def _flops(x, norms, qkv, out, bias, down, up, level_weights, heads, window, eps, keep, *, out_val=None) -> int:
    xs = [x, *out_val[1 : len(out_val) // 2]]
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


def _code(
    x: Tensor,
    norms: list[Tensor],
    qkv: Tensor,
    out: Tensor,
    bias: Tensor,
    down: Tensor,
    up: Tensor,
    heads: int,
    window: int,
) -> native.Code | None:
    """Return compiled code for tensors that fit together, if it can be had."""
    kind = native.Kind(x.dtype, x.shape[-1], heads, len(qkv) // 3 // heads, window, down.shape[-1], len(norms) // 2)
    c, f, rate = kind.channels, heads * kind.head_dim, kind.rate
    shapes = [(3 * f, c), (c, f), (c,), (c, c, rate, rate), (c, c, rate, rate), *[(c,)] * (2 * kind.norms)]
    weights = [qkv, out, bias, down, up, *norms]
    # What does not fit would be read as if it did; torch's operations say what is wrong.
    fit = len(weights) == len(shapes) and all(
        (w.shape, w.dtype, w.device) == (shape, x.dtype, x.device) for w, shape in zip(weights, shapes, strict=True)
    )
    return native.code(kind) if fit and 0 not in x.shape[1:3] else None


def _room(xs: Sequence[Tensor], heads: int, window: int, keep: bool) -> Tensor:
    """Return room for the attention probabilities of all windows, (A, P, P, windows), or for none."""
    windows = sum(len(x) * math.prod(window_counts((x.shape[1], x.shape[2]), window, window)) for x in xs)
    shape = (heads, window**2, window**2, windows) if keep else (0,)
    return xs[0].new_empty(shape, dtype=wide_dtype(xs[0].dtype))


def _normalise(x_TC: Tensor, norms: Sequence[Tensor], eps: float) -> list[tuple[Tensor, ...]]:
    """Return of each LayerNorm its result, the means and the reciprocal deviations."""
    steps: list[tuple[Tensor, ...]] = []
    for weight, bias in zip(norms[::2], norms[1::2], strict=True):
        steps.append(torch.native_layer_norm(x_TC, x_TC.shape[1:], weight, bias, eps))
        x_TC = steps[-1][0]
    return steps


def _project(y_TC: Tensor, qkv: Tensor, heads: int, window: int) -> Tensor:
    """Return queries, keys and values of a chunk, (3, A, E, P, M)."""
    return product(qkv, y_TC).view(3, heads, -1, window**2, len(y_TC) // window**2)
