"""Attention inside many small windows, laid out so that the windows are the vector axis.

Axes in names: A heads, E channels of a head, P cells of a window, M windows (the last axis, contiguous).
A window of 2 x 2 cells has 4 queries and 4 keys: as a batch of matrix products that is all overhead. With the windows
last, every score is a sum of products of contiguous vectors, one step for all windows at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def window_attention(qkv_3AEPM: Tensor, real_PM: Tensor | None = None, keep_APPM: Tensor | None = None) -> Tensor:
    """Return softmax(Q K^T / sqrt(E)) V of every window and head, (A, E, P, M).

    Args:
        qkv_3AEPM: queries, keys and values.
        real_PM: which cells may be attended to (each window needs one); all of them where None. The output of the
            other cells means nothing and gets no gradient if it is dropped.
        keep_APPM: factors for the attention probabilities (dropout).
    """
    return _WindowAttention.apply(qkv_3AEPM, real_PM, keep_APPM)


class _WindowAttention(torch.autograd.Function):
    """Saves the inputs and the probabilities; accumulates in place, which autograd alone could not differentiate."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, real: Tensor | None, keep: Tensor | None) -> Tensor:
        q, k, v = qkv.unbind(0)
        scores = _over_channels(q, k).mul_(q.shape[1] ** -0.5)
        if real is not None:
            scores.masked_fill_(~real, float("-inf"))
        p = scores.softmax(2)
        ctx.save_for_backward(qkv, p, keep)
        return _over_keys(p if keep is None else p * keep, v, torch.empty_like(v))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, p, keep = ctx.saved_tensors
        q, k, v = qkv.unbind(0)
        out = torch.empty_like(qkv)
        _over_keys((p if keep is None else p * keep).transpose(1, 2), grad, out[2])
        d = _over_channels(grad, v)
        if keep is not None:
            d *= keep
        d.mul_(p)
        d.addcmul_(d.sum(2, keepdim=True), p, value=-1).mul_(q.shape[1] ** -0.5)
        _over_keys(d, k, out[0])
        _over_keys(d.transpose(1, 2), q, out[1])
        return out, None, None


def _over_channels(a_AEPM: Tensor, b_AEPM: Tensor) -> Tensor:
    """Sum over channels of a (at the first cell) times b (at the second): (A, P, P, M), at least in float32."""
    a, b = a_AEPM.unsqueeze(3), b_AEPM.unsqueeze(2)
    total = (a[:, 0] * b[:, 0]).to(_wide(a.dtype))
    for e in range(1, a.shape[1]):
        total.addcmul_(a[:, e], b[:, e])
    return total


def _over_keys(p_APPM: Tensor, x_AEPM: Tensor, out_AEPM: Tensor) -> Tensor:
    """Sum over the second cell of p times x there, into ``out``: (A, E, P, M)."""
    p, x = p_APPM.unsqueeze(1), x_AEPM.unsqueeze(2)
    total = out_AEPM if out_AEPM.dtype == p.dtype else torch.empty_like(out_AEPM, dtype=p.dtype)
    torch.mul(p[:, :, :, 0], x[:, :, :, 0], out=total)
    for j in range(1, p.shape[3]):
        total.addcmul_(p[:, :, :, j], x[:, :, :, j])
    return total if total is out_AEPM else out_AEPM.copy_(total)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
