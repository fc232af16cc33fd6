"""Exact softmax attention over all tokens."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Backend = Literal["sdpa", "xformers"]


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, backend: Backend = "sdpa", causal: bool = False) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V of each head, (B, N, heads, D), through the kernels of ``backend``.

    ``sdpa`` is ``torch.nn.functional.scaled_dot_product_attention``, ``xformers`` is
    ``xformers.ops.memory_efficient_attention``, which runs on CUDA alone and wants D in multiples of 8: it gets zeros
    behind q, k and v, which change nothing in the result. With ``causal`` a query sees itself and what is before it.
    """
    if backend == "xformers":
        from xformers.ops import LowerTriangularMask, memory_efficient_attention

        d = q_BNHD.shape[-1]
        padded = (F.pad(t, (0, -d % 8)) for t in (q_BNHD, k_BNHD, v_BNHD))
        bias = LowerTriangularMask() if causal else None
        return memory_efficient_attention(*padded, attn_bias=bias, scale=d**-0.5)[..., :d]
    q, k, v = (t.transpose(1, 2) for t in (q_BNHD, k_BNHD, v_BNHD))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
