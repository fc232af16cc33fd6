"""Features of the points of a grid for each head."""

from __future__ import annotations

from torch import Tensor, nn

from attn_bench.nn.fast_linear import Linear


class PointFeatures(nn.Module):
    """Map tokens (B, *grid, dim) to features (B, N, heads, dim / heads) of the N points.

    Args:
        dim: channels.
        heads: divides ``dim``.
        mesh: the grid is (H, W): a 3 x 3 convolution, padded with zeros. A linear map otherwise.
    """

    def __init__(self, dim: int, heads: int, *, mesh: bool) -> None:
        super().__init__()
        self.heads, self.mesh = heads, mesh
        self.map = nn.Conv2d(dim, dim, 3, padding=1) if mesh else Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x.movedim(-1, 1)).movedim(1, -1) if self.mesh else self.map(x)
        return y.flatten(1, -2).unflatten(-1, (self.heads, -1))
