"""Linear attention of LinearNO (Hu et al., arXiv:2511.06294)."""

from __future__ import annotations

from torch import Tensor, nn

from attn_bench.nn.fast_linear import Linear
from baselines.transolver.point_features import PointFeatures


def attend_softmax_features(q_BHNG: Tensor, k_BHNG: Tensor, v_BHND: Tensor) -> Tensor:
    """Return Q (K^T V), (B, heads, N, D), with Q the softmax of ``q`` over G and K that of ``k`` over the points."""
    return q_BHNG.softmax(-1) @ (k_BHNG.softmax(-2).mT @ v_BHND)


class SoftmaxFeatureAttention(nn.Module):
    """Map tokens (B, *grid, dim) to (B, *grid, dim): out_i = sum_g Q_ig sum_j K_jg v_j, then a linear map.

    With features x_i and values v_i of each head (:class:`PointFeatures`), Q_i is the softmax over G of W x_i + b and
    K_jg that over the points j of W' x_j + b'; W and W' are shared by the heads. It is Transolver's attention with an
    identity instead of attention between slices exactly if K's logits are the log-softmax over G of Q's.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        slices: G.
        mesh: whether the points are a mesh (H, W), on which x and v see their neighbors.
    """

    def __init__(self, dim: int, heads: int, slices: int, *, mesh: bool) -> None:
        super().__init__()
        self.features = PointFeatures(dim, heads, mesh=mesh)
        self.values = PointFeatures(dim, heads, mesh=mesh)
        self.queries = Linear(dim // heads, slices)
        self.keys = Linear(dim // heads, slices)
        self.project = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        features_BNHD = self.features(x)
        q, k, v = (t.transpose(1, 2) for t in (self.queries(features_BNHD), self.keys(features_BNHD), self.values(x)))
        return self.project(attend_softmax_features(q, k, v).transpose(1, 2).flatten(2)).view_as(x)
