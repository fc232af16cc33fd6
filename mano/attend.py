"""Attention inside many small windows, stored so that the windows are the last, contiguous axis.

Axes in names: A heads, E channels of a head, P cells of a window, M windows.
A window of 2 x 2 cells has 4 queries and 4 keys, so small that batched matrix products would be mostly overhead. With
the windows last, every score is a sum of products of contiguous vectors, computed for all windows at once. Windows of
more than ``SMALL`` cells are computed as matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attn_bench.nn.precision import wide_dtype

SMALL = 9


def attend(qkv_3AEPM: Tensor, real_PM: Tensor | None = None, drop_APPM: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return softmax(Q K^T / sqrt(E)) V of every window and head, (A, E, P, M), and the softmax, (A, P, P, M).

    Args:
        qkv_3AEPM: queries, keys and values.
        real_PM: which cells may be attended to (each window needs one); None means all. The output of the other cells
            is undefined, and has no gradient if it is dropped.
        drop_APPM: factors of the attention probabilities (dropout).
    """
    q, k, v = qkv_3AEPM.unbind(0)
    scores = _over_channels(q, k).mul_(q.shape[1] ** -0.5)
    if real_PM is not None:
        scores.masked_fill_(~real_PM, float("-inf"))
    p = scores.softmax(2)
    return average(p if drop_APPM is None else p * drop_APPM, v), p


def average(p_APPM: Tensor, v_AEPM: Tensor) -> Tensor:
    """Return the values of every window averaged by the softmax: (A, E, P, M)."""
    return _over_keys(p_APPM, v_AEPM, torch.empty_like(v_AEPM))


def attend_backward(grad_AEPM: Tensor, qkv_3AEPM: Tensor, p_APPM: Tensor, drop_APPM: Tensor | None = None) -> Tensor:
    """Return the gradient of :func:`attend` by queries, keys and values, (3, A, E, P, M)."""
    q, k, v = qkv_3AEPM.unbind(0)
    kept = p_APPM if drop_APPM is None else p_APPM * drop_APPM
    d = _over_channels(grad_AEPM, v)
    if drop_APPM is not None:
        d *= drop_APPM
    d = torch._softmax_backward_data(d, p_APPM, 2, d.dtype).mul_(q.shape[1] ** -0.5)
    factors = (d, k), (d.transpose(1, 2), q), (kept.transpose(1, 2), grad_AEPM)
    out = torch.empty_like(qkv_3AEPM)
    for pair, part in zip(factors, out, strict=True):
        _over_keys(*pair, part)
    return out


def _over_channels(a_AEPM: Tensor, b_AEPM: Tensor) -> Tensor:
    """Sum over channels of a (at the first cell) times b (at the second): (A, P, P, M), at least in float32."""
    wide = wide_dtype(a_AEPM.dtype)
    if a_AEPM.shape[2] > SMALL:
        return torch.einsum("aepm,aeqm->apqm", a_AEPM, b_AEPM).to(wide)
    a, b = a_AEPM.unsqueeze(3).unbind(1), b_AEPM.unsqueeze(2).unbind(1)
    total = (a[0] * b[0]).to(wide)
    for x, y in zip(a[1:], b[1:], strict=True):
        total.addcmul_(x, y)
    return total


def _over_keys(p_APPM: Tensor, x_AEPM: Tensor, out_AEPM: Tensor) -> Tensor:
    """Sum over the second cell of p times x there, into ``out``: (A, E, P, M)."""
    if x_AEPM.shape[2] > SMALL:
        return out_AEPM.copy_(torch.einsum("apqm,aeqm->aepm", p_APPM.to(x_AEPM.dtype), x_AEPM))
    p, x = p_APPM.unsqueeze(1).unbind(3), x_AEPM.unsqueeze(2).unbind(3)
    total = out_AEPM if out_AEPM.dtype == p_APPM.dtype else torch.empty_like(out_AEPM, dtype=p_APPM.dtype)
    torch.mul(p[0], x[0], out=total)
    for y, z in zip(p[1:], x[1:], strict=True):
        total.addcmul_(y, z)
    return total if total is out_AEPM else out_AEPM.copy_(total)
