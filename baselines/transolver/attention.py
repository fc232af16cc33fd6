"""Physics attention of Transolver (Wu et al., arXiv:2402.02366)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.fast_linear import Linear
from baselines.transolver.point_features import PointFeatures

EPSILON = 1e-5


def slice_tokens(s_BHNG: Tensor, f_BHND: Tensor) -> Tensor:
    """Return the mean of the values of each slice, z_g = sum_i s_ig f_i / (sum_i s_ig + 1e-5), (B, heads, G, D)."""
    return s_BHNG.mT @ f_BHND / (s_BHNG.sum(2) + EPSILON)[..., None]


class PhysicsAttention(nn.Module):
    """Map tokens (B, *grid, dim) to (B, *grid, dim) through G slices, in time linear in the points.

    With features x_i and values f_i of each head (:class:`PointFeatures`), weights s_i = softmax over G of
    (W x_i + b) / clamp(tau, 0.1, 5), slices z_g (:func:`slice_tokens`) and z' = softmax(Q K^T / sqrt(D)) V between
    them,

        out_i = sum_g s_ig z'_g,

    then a linear map. W and the maps to Q, K and V are shared by the heads; tau is one number per head.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        slices: G.
        mesh: whether the points are a mesh (H, W), on which x and f see their neighbors.
    """

    def __init__(self, dim: int, heads: int, slices: int, *, mesh: bool) -> None:
        super().__init__()
        d = dim // heads
        self.features = PointFeatures(dim, heads, mesh=mesh)
        self.values = PointFeatures(dim, heads, mesh=mesh)
        self.to_slices = Linear(d, slices)
        nn.init.orthogonal_(self.to_slices.weight)
        self.temperature = nn.Parameter(torch.full((heads, 1), 0.5))
        self.qkv = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(3))
        self.project = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        logits_BNHG = self.to_slices(self.features(x)) / self.temperature.clamp(0.1, 5)
        s_BHNG = logits_BNHG.softmax(-1).transpose(1, 2)
        z_BHGD = slice_tokens(s_BHNG, self.values(x).transpose(1, 2))
        mixed_BHGD = F.scaled_dot_product_attention(*(linear(z_BHGD) for linear in self.qkv))
        return self.project((s_BHNG @ mixed_BHGD).transpose(1, 2).flatten(2)).view_as(x)
