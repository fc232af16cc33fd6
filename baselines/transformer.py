"""A transformer operator on fields in which only the mixer of tokens is left open."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from baselines.patches import append_coordinates

Mixer = Callable[[int], nn.Module]


class Block(nn.Module):
    """x + mixer(LN x), then x + feed_forward(x), on (B, H, W, dim)."""

    def __init__(self, mixer: nn.Module, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm = nn.LayerNorm(dim)
        self.mixer = mixer
        self.feed_forward = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.mixer(self.norm(x_BHWC))
        return x_BHWC + self.feed_forward(x_BHWC)


class Transformer(nn.Module):
    """Map a field (B, in_channels, H, W) to a field (B, out_channels, H, W).

    Input and coordinates, one linear map to ``dim`` channels, ``depth`` blocks, LayerNorm, and a head of two linear
    maps with tanh between: the operator of MANO (arXiv:2507.02748) with another mixer in the place of its attention.
    Every point is a token. It serves any grid that its mixer serves.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        dim: channels of a token.
        depth: blocks.
        mlp_ratio: hidden channels of the feed-forward networks over ``dim``.
        mixer_factory: called with ``dim`` once a block; returns a module from (B, H, W, dim) to (B, H, W, dim).
    """

    def __init__(
        self, in_channels: int, out_channels: int, dim: int, depth: int, mlp_ratio: float, mixer_factory: Mixer
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_channels + 2, dim)
        self.blocks = nn.Sequential(*(Block(mixer_factory(dim), dim, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, out_channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = self.embed(append_coordinates(x_BCHW).permute(0, 2, 3, 1))
        return self.head(self.norm(self.blocks(x_BHWC))).permute(0, 3, 1, 2)
