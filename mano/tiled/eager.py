"""Multipole attention whose windows tile the grids, in torch's operations, a few thousand tokens at a time.

Axes in names: as in :mod:`mano.tiled.operator`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.fast_linear import product
from mano.tiled import chunks
from mano.tiled.layer import Levels, Sizes, Weights, room
from mano.tiled.sampling import add_up_sampled, down_sample, weight_gradient
from mano.windows import attend, attend_backward, average, wide_dtype

TOKENS_PER_THREAD = 2752


def forward(x_BHWC: Tensor, weights: Weights, sizes: Sizes, keep: bool) -> Levels:
    """Return X_l, R_l and, where ``keep``, attention probabilities (:func:`mano.tiled.operator.tiled_multipole`)."""
    heads, window, eps = sizes
    with torch.autocast("cpu", enabled=False):
        down = weights.down.contiguous(memory_format=torch.channels_last)  # as convolutions want it
        xs = [x_BHWC]
        for _ in weights.level_weights:
            xs.append(down_sample(xs[-1], down))
        complete = [chunks.complete(x, window) for x in xs]
        results = [torch.empty_like(x) for x in complete]
        tokens, outputs = chunks.windows(complete, window), chunks.windows(results, window)
        real = chunks.real(xs, window)
        kept = room(xs, heads, window, keep)
        for chunk, place in chunks.window_chunks(tokens, TOKENS_PER_THREAD * torch.get_num_threads()):
            mask_PM = None if real is None else chunks.gather(real, chunk, True).view(window**2, -1)
            y_TC = _normalise(chunks.gather(tokens, chunk, 0), weights.norms, eps)[-1][0]
            o_AEPM, p_APPM = attend(_project(y_TC, weights.qkv, heads, window), mask_PM)
            if keep:
                kept[..., place] = p_APPM[..., : place.stop - place.start]
            out_CT = product(weights.out, o_AEPM.view(-1, len(y_TC)).t()).add_(weights.bias[:, None])
            chunks.scatter(out_CT.t(), outputs, chunk)
            del y_TC, o_AEPM, p_APPM, out_CT  # not to be held while the next chunk is computed
        results = chunks.crop(results, xs)
        for l in reversed(range(len(weights.level_weights))):
            scale = weights.level_weights[l].to(weights.up.dtype)
            add_up_sampled(results[l], results[l + 1], weights.up * scale)
    return Levels(xs, results, kept)


def backward(grad_BHWC: Tensor, levels: Levels, weights: Weights, sizes: Sizes) -> list[Tensor]:
    """Return the gradients; see :func:`mano.tiled.operator.tiled_multipole_backward`."""
    heads, window, eps = sizes
    xs, coarse, kept = levels.xs, levels.results[1:], levels.kept
    norms, qkv, out, bias, down, up, level_weights = weights
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
            projections = norms, qkv, qkv_CF, out_FC
            d_TC = _chunk_backward(g_TC, x_TC, mask_PM, p_APPM, *projections, heads, window, eps, totals)
            chunks.scatter(d_TC, outputs, chunk)
        results = chunks.crop(results, xs)
        for l in reversed(range(len(level_weights))):
            d_down += weight_gradient(results[l + 1], xs[l], down)
            add_up_sampled(results[l], results[l + 1], down)
    found = (*d_norms, d_qkv, d_out_FC.t().contiguous(), d_bias, d_down, d_up, d_level_weights)
    return [results[0], *(d.to(w.dtype) for d, w in zip(found, weights.flat(), strict=True))]


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
