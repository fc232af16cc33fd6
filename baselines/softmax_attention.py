"""Exact softmax attention over all points of a grid."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Backend = Literal["sdpa", "xformers"]


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, backend: Backend = "sdpa") -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V of each head, (B, N, heads, D), through the kernels of ``backend``.

    ``sdpa`` is ``torch.nn.functional.scaled_dot_product_attention``, ``xformers`` is
    ``xformers.ops.memory_efficient_attention``, which runs on CUDA alone and wants D in multiples of 8: it gets zeros
    behind q, k and v, which change nothing in the result.
    """
    if backend == "xformers":
        from xformers.ops import memory_efficient_attention

        d = q_BNHD.shape[-1]
        padded = (F.pad(t, (0, -d % 8)) for t in (q_BNHD, k_BNHD, v_BNHD))
        return memory_efficient_attention(*padded, scale=d**-0.5)[..., :d]
    q, k, v = (t.transpose(1, 2) for t in (q_BNHD, k_BNHD, v_BNHD))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class SoftmaxAttention(nn.Module):
    """Multi-head attention of every point to every point, (B, H, W, dim) to (B, H, W, dim).

    QKV without bias and an output projection with bias, as in MANO; no positions, no mask.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        backend: which kernels compute it; see :func:`attend`.
    """

    def __init__(self, dim: int, heads: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        self.heads = heads
        self.backend: Backend = backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.project = nn.Linear(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BHWC.flatten(1, 2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.project(attend(q, k, v, self.backend).flatten(2)).view_as(x_BHWC)
