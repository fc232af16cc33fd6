"""Attention in windows that tile the grids of all levels, on the CPU: in chunks that stay in cache, little of it kept.

The operator ``mano::tiled_attention`` goes through the tokens a few thousand at a time: what a chunk needs between its
input and its output is never written to memory, and the backward pass computes it anew (a sixth more matrix products)
instead of reading it back. Only the inputs are kept.

Axes in names: B batch, H W grid, C channels, K x K cells of a window, R rows of windows of all samples, P = K * K,
M windows of a chunk, T = P * M tokens of a chunk, F = heads * head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from mano.levels import ceil_div
from mano.products import product
from mano.windows import attend, attend_backward, wide_dtype

TOKENS_PER_THREAD = 2048


@torch.library.custom_op("mano::tiled_attention", mutates_args=())
def tiled_attention(
    xs: list[Tensor], norms: list[Tensor], qkv: Tensor, out: Tensor, bias: Tensor, heads: int, window: int, eps: float
) -> list[Tensor]:
    """Apply A, windowed attention of normalised tokens and its output projection, to some grids.

    Args:
        xs: (B, H, W, C) each. Cells that complete the last windows beyond a grid are attended to by none.
        norms: weight and bias of one LayerNorm or of two, applied one after the other.
        qkv: weights of queries, keys and values, (3F, C).
        out: weights of the output projection, (C, F).
        bias: of the output projection, (C,).
        heads: attention heads.
        window: side of a window, in cells, and distance between windows.
        eps: of the LayerNorms.
    """
    complete = [_complete(x, window) for x in xs]
    results = [torch.empty_like(x) for x in complete]
    tokens, outputs, real = _windows(complete, window), _windows(results, window), _real(xs, window)
    with torch.autocast("cpu", enabled=False):
        for chunk in _chunks(tokens):
            y_TC = _normalise(_gather(tokens, chunk), norms, eps)[-1][0]
            mask_PM = None if real is None else _gather(real, chunk).view(window**2, -1)
            o_AEPM, _ = attend(_project(y_TC, qkv, heads, window), mask_PM)
            out_CT = product(out, o_AEPM.view(-1, len(y_TC)).t()).add_(bias[:, None])
            _scatter(out_CT.t(), outputs, chunk)
    return _crop(results, xs)


@torch.library.custom_op("mano::tiled_attention_backward", mutates_args=())
def tiled_attention_backward(
    grads: list[Tensor],
    xs: list[Tensor],
    norms: list[Tensor],
    qkv: Tensor,
    out: Tensor,
    bias: Tensor,
    heads: int,
    window: int,
    eps: float,
) -> list[Tensor]:
    """Return the gradients by ``xs``, ``norms``, ``qkv``, ``out`` and ``bias``, in this order, as one list."""
    complete = [_complete(x, window) for x in xs]
    results = [torch.empty_like(x) for x in complete]
    tokens, outputs, real = _windows(complete, window), _windows(results, window), _real(xs, window)
    from_above = _windows([_complete(grad, window) for grad in grads], window)
    # What is summed over chunks is summed in float32 at least.
    d_norms = [torch.zeros_like(w, dtype=wide_dtype(w.dtype)) for w in norms]
    d_qkv, d_out_FC, d_bias = (torch.zeros(w.shape, dtype=wide_dtype(w.dtype)) for w in (qkv, out.t(), bias))
    qkv_CF, out_FC = qkv.t().contiguous(), out.t().contiguous()
    with torch.autocast("cpu", enabled=False):
        for chunk in _chunks(tokens):
            steps = _normalise(_gather(tokens, chunk), norms, eps)
            y_TC, g_TC = steps[-1][0], _gather(from_above, chunk)
            mask_PM = None if real is None else _gather(real, chunk).view(window**2, -1)
            qkv_3AEPM = _project(y_TC, qkv, heads, window)
            o_AEPM, p_APPM = attend(qkv_3AEPM, mask_PM)
            d_out_FC += product(o_AEPM.view(-1, len(y_TC)), g_TC.t())
            d_bias += g_TC.sum(0)
            do_AEPM = product(out_FC, g_TC).view_as(o_AEPM)
            dqkv_FT = attend_backward(do_AEPM, qkv_3AEPM, p_APPM).view(-1, len(y_TC))
            d_qkv += product(dqkv_FT, y_TC.t())
            d_TC = product(qkv_CF, dqkv_FT.t()).t().contiguous()
            for i in reversed(range(len(steps) - 1)):
                d_TC, *d_norm = torch.ops.aten.native_layer_norm_backward(
                    d_TC, steps[i][0], y_TC.shape[1:], *steps[i + 1][1:], *norms[2 * i : 2 * i + 2], [True, True, True]
                )
                torch._foreach_add_(d_norms[2 * i : 2 * i + 2], d_norm)
            _scatter(d_TC, outputs, chunk)
    weights = zip((*d_norms, d_qkv, d_out_FC.t().contiguous(), d_bias), (*norms, qkv, out, bias), strict=True)
    return [*_crop(results, xs), *(d.to(w.dtype) for d, w in weights)]


@tiled_attention.register_fake
def _(xs, norms, qkv, out, bias, heads, window, eps):
    return [x.new_empty(x.shape) for x in xs]


@tiled_attention_backward.register_fake
def _(grads, xs, norms, qkv, out, bias, heads, window, eps):
    return [x.new_empty(x.shape) for x in (*xs, *norms, qkv, out, bias)]


def _save(ctx, inputs, output):
    xs, norms, *weights, heads, window, eps = inputs
    ctx.save_for_backward(*xs, *norms, *weights)
    ctx.sizes = len(xs), len(norms), heads, window, eps


def _backward(ctx, grads):
    levels, norms, heads, window, eps = ctx.sizes
    saved = list(ctx.saved_tensors)
    xs, saved = saved[:levels], saved[levels:]
    found = tiled_attention_backward(grads, xs, saved[:norms], *saved[norms:], heads, window, eps)
    return found[:levels], found[levels : levels + norms], *found[levels + norms :], None, None, None


tiled_attention.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mano.tiled_attention, get_raw=True)
def _flops(xs, norms, qkv, out, bias, heads, window, eps, *, out_val=None) -> int:
    f, c = len(qkv) // 3, qkv.shape[1]
    return 2 * f * _cells(xs, window) * (4 * c + 2 * window**2)


@register_flop_formula(torch.ops.mano.tiled_attention_backward, get_raw=True)
def _flops_backward(grads, xs, norms, qkv, out, bias, heads, window, eps, *, out_val=None) -> int:
    f, c = len(qkv) // 3, qkv.shape[1]
    # Two products for each of the forward pass, and once more those that are computed anew: all but the last.
    return 2 * f * _cells(xs, window) * (11 * c + 6 * window**2)


def _cells(xs, window: int) -> int:
    padded = ((b, ceil_div(h, window) * window, ceil_div(w, window) * window) for b, h, w, _ in (x.shape for x in xs))
    return sum(b * h * w for b, h, w in padded)


Chunk = list[tuple[int, slice]]
"""For each part its level and its rows of windows."""


def _complete(x_BHWC: Tensor, window: int) -> Tensor:
    """Add zeros at the lower and right end, so that the windows end where the grid does."""
    below, right = (-n % window for n in x_BHWC.shape[1:3])
    return F.pad(x_BHWC, (0, 0, 0, right, 0, below)) if below or right else x_BHWC.contiguous()


def _crop(results: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
    return [y[:, : x.shape[1], : x.shape[2]].contiguous() for y, x in zip(results, xs, strict=True)]


def _windows(xs: Sequence[Tensor], window: int) -> list[Tensor]:
    """View complete grids as windows, (K, K, R, columns, C) each."""
    split = (x.view(-1, window, x.shape[2] // window, window, x.shape[3]) for x in xs)
    return [x.permute(1, 3, 0, 2, 4) for x in split]


def _real(xs: Sequence[Tensor], window: int) -> list[Tensor] | None:
    """Return which cells of the windows lie on the grids, or None if all do."""
    if all(n % window == 0 for x in xs for n in x.shape[1:3]):
        return None
    ones = (x.new_ones(*x.shape[:3], 1, dtype=torch.bool) for x in xs)
    return _windows([_complete(x, window) for x in ones], window)


def _chunks(windows: Sequence[Tensor]) -> list[Chunk]:
    """Cut all rows of windows into chunks of about as many tokens as stay in cache, small levels together."""
    limit = TOKENS_PER_THREAD * torch.get_num_threads()
    chunks: list[Chunk] = [[]]
    room = limit
    for level in reversed(range(len(windows))):
        k, _, rows, columns, _ = windows[level].shape
        tokens, start = k * k * columns, 0
        while start < rows:
            if chunks[-1] and room < tokens:
                chunks.append([])
                room = limit
            stop = min(rows, start + max(1, room // tokens))
            chunks[-1].append((level, slice(start, stop)))
            room -= (stop - start) * tokens
            start = stop
    return chunks


def _gather(windows: Sequence[Tensor], chunk: Chunk) -> Tensor:
    """Return the tokens of a chunk, (T, C), those of the same cell of all windows one after the other."""
    parts = [windows[level][:, :, rows] for level, rows in chunk]
    k, _, _, _, c = parts[0].shape
    out = parts[0].new_empty(k, k, sum(part[0, 0, ..., 0].numel() for part in parts), c)
    for place, part in _places(out, parts):
        place.copy_(part)
    return out.view(-1, c)


def _scatter(tokens_TC: Tensor, windows: Sequence[Tensor], chunk: Chunk) -> None:
    """Undo :func:`_gather`."""
    parts = [windows[level][:, :, rows] for level, rows in chunk]
    k = len(parts[0])
    for place, part in _places(tokens_TC.unflatten(0, (k, k, -1)), parts):
        part.copy_(place)


def _places(tokens_KKMC: Tensor, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for part in parts:
        stop = start + part.shape[2] * part.shape[3]
        yield tokens_KKMC[:, :, start:stop].unflatten(2, part.shape[2:4]), part
        start = stop


def _normalise(x_TC: Tensor, norms: Sequence[Tensor], eps: float) -> list[tuple[Tensor, ...]]:
    """Return the tokens, then for each LayerNorm its result, the means and the reciprocal deviations."""
    steps: list[tuple[Tensor, ...]] = [(x_TC,)]
    for weight, bias in zip(norms[::2], norms[1::2], strict=True):
        steps.append(torch.native_layer_norm(steps[-1][0], x_TC.shape[1:], weight, bias, eps))
    return steps


def _project(y_TC: Tensor, qkv: Tensor, heads: int, window: int) -> Tensor:
    """Return queries, keys and values of a chunk, (3, A, E, P, M)."""
    return product(qkv, y_TC).view(3, heads, -1, window**2, len(y_TC) // window**2)
