"""Fast Low-rank Attention Routing Engine (Puri et al., arXiv:2508.12594)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.fast_linear import Linear


def route(q_HMD: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
    """Return softmax(K Q^T) softmax(Q K^T) V of each head, (B, heads, N, D), without a scale.

    M latent queries gather the values of N tokens; the keys, as queries, scatter them back.
    """
    q_BHMD = q_HMD.expand(len(k_BHND), -1, -1, -1)
    z_BHMD = F.scaled_dot_product_attention(q_BHMD, k_BHND, v_BHND, scale=1.0)
    return F.scaled_dot_product_attention(k_BHND, q_BHMD, z_BHMD, scale=1.0)


class ResidualMLP(nn.Module):
    """x + GELU(A x) ``layers`` + 1 times, each with its own map A, then x + A x; all maps are dim x dim."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(Linear(dim, dim) for _ in range(layers + 1))
        self.last = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.hidden:
            x = x + F.gelu(linear(x), approximate="tanh")
        return x + self.last(x)


class FLAREAttention(nn.Module):
    """Map tokens (B, *grid, dim) to (B, *grid, dim): :func:`route` of learned queries, then a linear map.

    Keys and values are residual networks of the token; the queries are parameters, a set for each head.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        latents: M, latent queries of a head.
        layers: hidden layers of the networks of keys and values.
    """

    def __init__(self, dim: int, heads: int, latents: int, layers: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.1 * torch.randn(heads, latents, dim // heads))
        self.keys, self.values = ResidualMLP(dim, layers), ResidualMLP(dim, layers)
        self.project = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens_BNC, heads = x.flatten(1, -2), len(self.queries)
        k, v = (f(tokens_BNC).unflatten(2, (heads, -1)).transpose(1, 2) for f in (self.keys, self.values))
        return self.project(route(self.queries, k, v).transpose(1, 2).flatten(2)).view_as(x)
