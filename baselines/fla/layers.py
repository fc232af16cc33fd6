"""Layers of flash-linear-attention by name, as modules that map tokens to tokens."""

from __future__ import annotations

from typing import Any

from fla import layers
from torch import Tensor, nn


def build(layer: str, dim: int, heads: int) -> nn.Module:
    """Return the library's layer for tokens of ``dim`` channels with ``heads`` heads, otherwise with its defaults."""
    head_dim = dim // heads
    match layer:
        case "gla":
            return layers.GatedLinearAttention(hidden_size=dim, num_heads=heads, layer_idx=0)
        case "deltanet":
            return layers.DeltaNet(hidden_size=dim, num_heads=heads, layer_idx=0)
        case "gated-deltanet":
            return layers.GatedDeltaNet(hidden_size=dim, num_heads=heads, head_dim=head_dim, layer_idx=0)
        case "retnet":
            return layers.MultiScaleRetention(hidden_size=dim, num_heads=heads, layer_idx=0)
        case "mamba2":
            # It expands the channels by two.
            return layers.Mamba2(hidden_size=dim, num_heads=heads, head_dim=2 * head_dim, layer_idx=0)
        case "rwkv7":
            # Its initial weights depend on the depth, which must be above one.
            return layers.RWKV7Attention(hidden_size=dim, head_dim=head_dim, layer_idx=0, num_hidden_layers=2)
    raise ValueError(f"unknown layer {layer!r}")


class OutputOnly(nn.Module):
    """Map tokens (B, N, dim) to the same shape by a layer that also returns attention weights and a cache."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BNC: Tensor) -> Tensor:
        found = self.layer(x_BNC)
        return found[0] if isinstance(found, tuple) else found
