"""Attention without a softmax, of Galerkin and of Fourier type (Cao, arXiv:2105.14995)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.multi_head import MultiHead

Type = Literal["galerkin", "fourier"]
GAIN, DIAGONAL, EPSILON = 0.01, 0.01, 1e-7  # the authors' for Darcy


def attend_galerkin(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
    """Return Q (K^T V) / N, (B, heads, N, D), for K and V that are normalized: linear in the points N."""
    return q_BHND @ (k_BHND.mT @ v_BHND / k_BHND.shape[2])


def attend_fourier(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
    """Return (Q K^T) V / (N sqrt(D)), (B, heads, N, D), for Q and K that are normalized: quadratic in the points N."""
    n, d = k_BHND.shape[2:]
    return q_BHND @ k_BHND.mT / (n * d**0.5) @ v_BHND


class NormalisedAttention(nn.Module):
    """Map q, k and v, (B, N, heads, D) each, to the same shape; two of them go through a LayerNorm of each head first.

    Args:
        heads: attention heads.
        head_dim: D.
        type: ``"galerkin"`` normalizes K and V, ``"fourier"`` Q and K.
    """

    def __init__(self, heads: int, head_dim: int, type: Type) -> None:
        super().__init__()
        self.galerkin = type == "galerkin"
        self.weight = nn.Parameter(torch.ones(2, heads, head_dim))
        self.bias = nn.Parameter(torch.zeros(2, heads, head_dim))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.galerkin:
            k, v = self._normalise(k, v)
        else:
            q, k = self._normalise(q, k)
        attend = attend_galerkin if self.galerkin else attend_fourier
        return attend(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)

    def _normalise(self, *pair_BNHD: Tensor) -> list[Tensor]:
        normal = (F.layer_norm(t, t.shape[-1:], eps=EPSILON) for t in pair_BNHD)
        return [t * weight + bias for t, weight, bias in zip(normal, self.weight, self.bias, strict=True)]


class GalerkinAttention(MultiHead):
    """Multi-head attention without a softmax; the maps to Q, K and V start as Xavier's times 0.01 plus 0.01 I.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        type: ``"galerkin"`` or ``"fourier"``.
    """

    def __init__(self, dim: int, heads: int, type: Type) -> None:
        super().__init__(dim, heads, NormalisedAttention(heads, dim // heads, type))
        with torch.no_grad():
            for weight in self.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(weight, gain=GAIN).add_(DIAGONAL * torch.eye(dim))
