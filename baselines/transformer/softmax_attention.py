"""Exact softmax attention over all tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_bench.plugin import Unsupported

Backend = Literal["auto", "math", "flash", "memory-efficient", "cudnn", "xformers"]
SDPA = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
# On CUDA these do not support float32.
HALF_ONLY = ("flash", "cudnn")


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, backend: Backend = "auto", causal: bool = False) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V of each head, (B, N, heads, D), through the kernels of ``backend``.

    ``xformers`` is ``xformers.ops.memory_efficient_attention``, which runs only on CUDA and needs multiples of 8 for D:
    q, k and v are padded with zeros, which do not change the result. All others are
    ``torch.nn.functional.scaled_dot_product_attention``, which selects its kernels itself if ``backend`` is ``auto``.
    With ``causal`` a query sees itself and earlier tokens.

    Raises:
        Unsupported: these kernels do not support this dtype.
    """
    if backend == "xformers":
        from xformers.ops import LowerTriangularMask, memory_efficient_attention

        d = q_BNHD.shape[-1]
        padded = (F.pad(t, (0, -d % 8)) for t in (q_BNHD, k_BNHD, v_BNHD))
        bias = LowerTriangularMask() if causal else None
        return memory_efficient_attention(*padded, attn_bias=bias, scale=d**-0.5)[..., :d]
    q, k, v = (t.transpose(1, 2) for t in (q_BNHD, k_BNHD, v_BNHD))
    if backend == "auto":
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
    if backend in HALF_ONLY and q.is_cuda and q.dtype == torch.float32:
        raise Unsupported(f"SDPA's {backend} kernels do not support float32 on CUDA; use --precision bf16")
    with sdpa_kernel(SDPA[backend]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def kernels_of_auto(heads: int, n: int, head_dim: int, causal: bool, like: Tensor) -> str:
    """Return the backend that SDPA chooses for (1, heads, n, head_dim) on the device of ``like``."""
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    q = torch.empty(1, heads, n, head_dim, device=like.device, dtype=dtype, requires_grad=True)
    chosen = torch._fused_sdp_choice(q, q, q, is_causal=causal)
    return next((name for name, backend in SDPA.items() if backend.value == chosen), str(chosen))
