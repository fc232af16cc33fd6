"""The Multipole Attention Neural Operator for fields on a grid (arXiv:2507.02748)."""

from __future__ import annotations

from typing import Any

from attn_bench.nn.transformer import Transformer
from mano.attention import MultipoleAttention


class MANO(Transformer):
    """Map a field (B, in_channels, H, W) to a field (B, out_channels, H, W); any grid, the same parameters.

    :class:`attn_bench.nn.transformer.Transformer` with multipole attention for its mixer.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        dim: channels inside.
        depth: number of blocks.
        mlp_ratio: hidden channels of the feed-forward networks over ``dim``.
        dropout: of the attention and of the feed-forward networks.
        **attention: arguments of :class:`mano.attention.MultipoleAttention`.

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
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
        **attention: Any,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; it must be >= 1")
        if mlp_ratio * dim < 1:
            raise ValueError(f"mlp_ratio is {mlp_ratio}; times dim ({dim}) it must be >= 1")
        super().__init__(
            in_channels,
            out_channels,
            dim=dim,
            depth=depth,
            mixer=lambda: MultipoleAttention(dim, dropout=dropout, **attention),
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            normalise=False,
        )
