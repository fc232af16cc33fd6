"""The Multipole Attention Neural Operator for fields on a grid (arXiv:2507.02748)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_bench.nn.linear import Linear
from mano.attention import MultipoleAttention
from mano.levels import LevelWeights


def append_coordinates(x_BCHW: Tensor) -> Tensor:
    """Append two channels, the row and the column of each cell, both from 0 to 1 over the grid (0 on an axis of 1)."""
    b, _, h, w = x_BCHW.shape
    rows, columns = (torch.linspace(0, 1, n, dtype=x_BCHW.dtype, device=x_BCHW.device) for n in (h, w))
    return torch.cat([x_BCHW, rows.view(1, 1, h, 1).expand(b, 1, h, w), columns.expand(b, 1, h, w)], 1)


class Block(nn.Module):
    """x + attention(x), then x + feed_forward(x), on (B, H, W, dim); both normalise their input themselves."""

    def __init__(self, attention: MultipoleAttention, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.attention(x_BHWC)
        return x_BHWC + self.feed_forward(x_BHWC)


class MANO(nn.Module):
    """Map a field (B, in_channels, H, W) to a field (B, out_channels, H, W); any grid, the same parameters.

    Input and coordinates, one linear map to ``dim`` channels, ``depth`` blocks of multipole attention and a
    feed-forward network, LayerNorm, then a head of two linear maps with tanh between.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        dim: channels inside.
        depth: number of blocks.
        mlp_ratio: hidden channels of the feed-forward networks over ``dim``.
        heads, head_dim, window_size, stride, rate, levels, level_weights, double_norm, dropout: as in
            :class:`mano.attention.MultipoleAttention`; ``dropout`` acts in the feed-forward networks too.

    Raises:
        ValueError: an argument that cannot work.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        mlp_ratio: float = 2.0,
        window_size: int = 2,
        stride: int | None = None,
        rate: int = 2,
        levels: int | None = None,
        level_weights: LevelWeights = "harmonic",
        double_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth is {depth}; it must be at least 1")
        if mlp_ratio * dim < 1:
            raise ValueError(f"mlp_ratio is {mlp_ratio}; times dim ({dim}) it must be at least 1")
        self.embed = nn.Linear(in_channels + 2, dim)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            attention = MultipoleAttention(
                dim,
                heads=heads,
                head_dim=head_dim,
                window_size=window_size,
                stride=stride,
                rate=rate,
                levels=levels,
                level_weights=level_weights,
                double_norm=double_norm,
                dropout=dropout,
            )
            self.blocks.append(Block(attention, dim, int(mlp_ratio * dim), dropout))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(Linear(dim, dim), nn.Tanh(), nn.Linear(dim, out_channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = self.embed(append_coordinates(x_BCHW).permute(0, 2, 3, 1))
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        return self.head(self.norm(x_BHWC)).permute(0, 3, 1, 2)
