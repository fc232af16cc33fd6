"""Multipole attention whose windows tile the grids, in torch's operations, a few thousand cells at a time.

Axes in names: as in :mod:`mano.tiled.tiled_multipole`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.fast_linear import product
from attn_bench.nn.precision import wide_dtype
from mano.attend import attend, attend_backward, average
from mano.tiled import chunks
from mano.tiled.layer import Levels, Sizes, Weights, empty_probabilities
from mano.tiled.sampling import add_up_sampled, down_sample, weight_gradient

CELLS_PER_THREAD = 2752


def forward(x_BHWC: Tensor, weights: Weights, sizes: Sizes, store_probabilities: bool) -> Levels:
    """Return X_l, R_l and probabilities if they are stored (:func:`mano.tiled.tiled_multipole.tiled_multipole`)."""
    side = sizes.window_size
    with torch.autocast("cpu", enabled=False):
        down = weights.down.contiguous(memory_format=torch.channels_last)  # the layout that convolutions need
        xs = [x_BHWC]
        for _ in weights.level_weights:
            xs.append(down_sample(xs[-1], down))
        complete = [chunks.complete(x, side) for x in xs]
        results = [torch.empty_like(x) for x in complete]
        inputs, outputs = chunks.windows(complete, side), chunks.windows(results, side)
        real = chunks.real(xs, side)
        probabilities = empty_probabilities(xs, sizes, store_probabilities)
        for chunk, place in chunks.window_chunks(inputs, CELLS_PER_THREAD * torch.get_num_threads()):
            mask_PM = None if real is None else chunks.gather(real, chunk, True).view(side**2, -1)
            y_TC = _normalise(chunks.gather(inputs, chunk, 0), weights.norms, sizes.eps)[-1][0]
            o_AEPM, p_APPM = attend(_project(y_TC, weights.qkv, sizes), mask_PM)
            if store_probabilities:
                probabilities[..., place] = p_APPM[..., : place.stop - place.start]
            out_CT = product(weights.out, o_AEPM.view(-1, len(y_TC)).t()).add_(weights.bias[:, None])
            chunks.scatter(out_CT.t(), outputs, chunk)
            del y_TC, o_AEPM, p_APPM, out_CT  # not kept while the next chunk is computed
        results = chunks.crop(results, xs)
        for l in reversed(range(len(weights.level_weights))):
            scale = weights.level_weights[l].to(weights.up.dtype)
            add_up_sampled(results[l], results[l + 1], weights.up * scale)
    return Levels(xs, results, probabilities)


def backward(grad_BHWC: Tensor, levels: Levels, weights: Weights, sizes: Sizes) -> list[Tensor]:
    """Return the gradients; see :func:`mano.tiled.tiled_multipole.tiled_multipole_backward`."""
    side, (xs, (_, *coarse), probabilities) = sizes.window_size, levels
    stored = probabilities.numel() > 0
    # Sums over chunks and levels are at least in float32.
    sums = Weights.unpack([torch.zeros_like(w, dtype=wide_dtype(w.dtype)) for w in weights.pack()])
    layer = _Layer(weights, sums, sizes)
    down, up = (weight.contiguous(memory_format=torch.channels_last) for weight in (weights.down, weights.up))
    with torch.autocast("cpu", enabled=False):
        grads = [grad_BHWC.contiguous()]
        for l, level_weight in enumerate(weights.level_weights):
            d_scaled = weight_gradient(coarse[l], grads[l], up)
            sums.level_weights[l] = (d_scaled * up).sum()
            sums.up.add_(d_scaled * level_weight)
            grads.append(down_sample(grads[l], up * level_weight.to(up.dtype)))
        complete = [chunks.complete(x, side) for x in xs]
        results = [torch.empty_like(x) for x in complete]
        inputs, outputs = chunks.windows(complete, side), chunks.windows(results, side)
        from_above = chunks.windows([chunks.complete(grad, side) for grad in grads], side)
        real = None if stored else chunks.real(xs, side)
        for chunk, place in chunks.window_chunks(inputs, CELLS_PER_THREAD * torch.get_num_threads()):
            x_TC, g_TC = chunks.gather(inputs, chunk, 0), chunks.gather(from_above, chunk, 0)
            mask_PM = None if real is None else chunks.gather(real, chunk, True).view(side**2, -1)
            added = len(x_TC) // side**2 - (place.stop - place.start)
            p_APPM = F.pad(probabilities[..., place], (0, added)) if stored else None
            chunks.scatter(layer.chunk_backward(g_TC, x_TC, mask_PM, p_APPM), outputs, chunk)
        results = chunks.crop(results, xs)
        for l in reversed(range(len(weights.level_weights))):
            sums.down.add_(weight_gradient(results[l + 1], xs[l], down))
            add_up_sampled(results[l], results[l + 1], down)
    return [results[0], *(d.to(w.dtype) for d, w in zip(sums.pack(), weights.pack(), strict=True))]


class _Layer:
    """The attention of a layer in the backward pass; the gradients by its weights are added to ``sums``."""

    def __init__(self, weights: Weights, sums: Weights, sizes: Sizes) -> None:
        self.weights, self.sums, self.sizes = weights, sums, sizes
        self.qkv_CF, self.out_FC = weights.qkv.t().contiguous(), weights.out.t().contiguous()

    def chunk_backward(self, g_TC: Tensor, x_TC: Tensor, mask_PM: Tensor | None, p_APPM: Tensor | None) -> Tensor:
        """Return the gradient by ``x_TC``; the probabilities are computed again where they are None."""
        norms, cells = self.weights.norms, self.sizes.window_size**2
        steps = [(x_TC,), *_normalise(x_TC, norms, self.sizes.eps)]
        y_TC = steps[-1][0]
        qkv_3AEPM = _project(y_TC, self.weights.qkv, self.sizes)
        if p_APPM is None:
            o_AEPM, p_APPM = attend(qkv_3AEPM, mask_PM)
        else:
            o_AEPM = average(p_APPM, qkv_3AEPM[2])
        self.sums.out.t().add_(product(o_AEPM.view(-1, len(y_TC)), g_TC.t()))
        self.sums.bias.add_(g_TC.sum(0))
        do_AEPM = product(self.out_FC, g_TC).view_as(o_AEPM)
        del o_AEPM
        dqkv_FT = attend_backward(do_AEPM, qkv_3AEPM, p_APPM).view(-1, len(y_TC))
        del do_AEPM, qkv_3AEPM, p_APPM
        self.sums.qkv.add_(product(dqkv_FT, y_TC.t()))
        # Copied as (P, M, C): torch copies transposed matrices with one thread.
        d_TC, d_CT = torch.empty_like(y_TC), product(self.qkv_CF, dqkv_FT.t())
        d_TC.unflatten(0, (cells, -1)).copy_(d_CT.t().unflatten(0, (cells, -1)))
        for i in reversed(range(len(steps) - 1)):
            d_TC, *d_norm = torch.ops.aten.native_layer_norm_backward(
                d_TC, steps[i][0], y_TC.shape[1:], *steps[i + 1][1:], *norms[2 * i : 2 * i + 2], [True, True, True]
            )
            torch._foreach_add_(self.sums.norms[2 * i : 2 * i + 2], d_norm)
        return d_TC


def _normalise(x_TC: Tensor, norms: Sequence[Tensor], eps: float) -> list[tuple[Tensor, ...]]:
    """Return of each LayerNorm its result, the means and the reciprocal deviations."""
    steps: list[tuple[Tensor, ...]] = []
    for weight, bias in zip(norms[::2], norms[1::2], strict=True):
        steps.append(torch.native_layer_norm(x_TC, x_TC.shape[1:], weight, bias, eps))
        x_TC = steps[-1][0]
    return steps


def _project(y_TC: Tensor, qkv: Tensor, sizes: Sizes) -> Tensor:
    """Return queries, keys and values of a chunk, (3, A, E, P, M)."""
    cells = sizes.window_size**2
    return product(qkv, y_TC).view(3, sizes.heads, -1, cells, len(y_TC) // cells)
