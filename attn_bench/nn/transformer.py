"""Transformers on fields and on text in which only the mixer of tokens is left open."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.heads import with_head
from attn_bench.nn.patches import append_coordinates
from attn_bench.plugin import Problem

Mixer = Callable[[int], nn.Module]
# Tokens to one side whose embeddings tell a token where it is.
REACH = 3


class Block(nn.Module):
    """x + mixer(LN x), then x + feed_forward(x), on (B, H, W, dim) or (B, N, dim), whichever the mixer takes."""

    def __init__(self, mixer: nn.Module, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm = nn.LayerNorm(dim)
        self.mixer = mixer
        self.feed_forward = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm(x))
        return x + self.feed_forward(x)


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


class TextTransformer(nn.Module):
    """Map tokens (B, N), integers below ``inputs``, to scores (B, N, outputs).

    An embedding of each token, ``depth`` blocks, LayerNorm and a linear head of its own. Position comes from a
    depthwise convolution of the embeddings, added to them, which serves any length (conditional positional encoding,
    Chu et al., arXiv:2102.10882). Trained briefly on bytes it is far ahead of sinusoids. Order beyond its reach is left
    to the mixer; a causal one can tell how much came before (Haviv et al., arXiv:2203.16634).

    Args:
        inputs: size of the vocabulary.
        outputs: scores a token.
        dim: channels of a token.
        depth: blocks.
        mlp_ratio: hidden channels of the feed-forward networks over ``dim``.
        mixer_factory: called with ``dim`` once a block; returns a module from (B, N, dim) to (B, N, dim).
        causal: whether the convolution sees the past alone; a causal mixer then makes the whole causal.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dim: int,
        depth: int,
        mlp_ratio: float,
        mixer_factory: Mixer,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, dim)
        self.reach = (REACH, 0 if causal else REACH)
        self.position = nn.Conv1d(dim, dim, sum(self.reach) + 1, groups=dim)
        self.blocks = nn.Sequential(*(Block(mixer_factory(dim), dim, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, tokens_BN: Tensor) -> Tensor:
        x_BNC = self.embed(tokens_BN)
        x_BNC = x_BNC + self.position(F.pad(x_BNC.mT, self.reach)).mT
        return self.head(self.norm(self.blocks(x_BNC)))


def transformer_for(problem: Problem, dim: int, depth: int, mlp_ratio: float, mixer_factory: Mixer) -> nn.Module:
    """Return the transformer that serves the kind of ``problem``; for images and masks below a head.

    The mixers are called on (B, N, dim) for text and on (B, H, W, dim) otherwise.
    """
    if problem.kind.endswith("text"):
        causal = problem.kind == "causal-text"
        return TextTransformer(problem.inputs, problem.outputs, dim, depth, mlp_ratio, mixer_factory, causal)
    return with_head(
        problem, dim, lambda outputs: Transformer(problem.inputs, outputs, dim, depth, mlp_ratio, mixer_factory)
    )
