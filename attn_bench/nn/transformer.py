"""The transformer around every mixer, for fields and for text, so that models differ only in the mixer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.coordinates import append_coordinates, sinusoids
from attn_bench.nn.fast_linear import Linear
from attn_bench.nn.heads import with_head
from attn_bench.nn.patches import Patched
from attn_bench.plugin import Mixer, Problem

MixerFactory = Callable[[], nn.Module]
# Tokens on each side that the positional convolution covers.
REACH = 3


class Block(nn.Module):
    """x + mixer(LN x), then x + feed_forward(x), on (B, H, W, dim) or (B, N, dim), depending on the mixer.

    Args:
        mixer: maps tokens to tokens of the same shape.
        dim: channels of a token.
        mlp_ratio: hidden channels of the feed-forward network over ``dim``.
        dropout: probability behind both maps of the feed-forward network.
        normalise: whether the mixer receives normalized tokens; otherwise it normalizes them itself.
    """

    def __init__(
        self, mixer: nn.Module, dim: int, mlp_ratio: float, *, dropout: float = 0.0, normalise: bool = True
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm = nn.LayerNorm(dim) if normalise else nn.Identity()
        self.mixer = mixer
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            Linear(dim, hidden, inner=True),
            nn.GELU(),
            nn.Dropout(dropout),
            Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm(x))
        return x + self.feed_forward(x)


def _blocks(options: Mixer.Options, mixer: MixerFactory, normalise: bool) -> nn.Sequential:
    dim, mlp_ratio, dropout = options.dim, options.mlp_ratio, options.dropout
    return nn.Sequential(
        *(Block(mixer(), dim, mlp_ratio, dropout=dropout, normalise=normalise) for _ in range(options.depth))
    )


class Transformer(nn.Module):
    """Map a field (B, in_channels, *grid) to a field (B, out_channels, *grid); a grid is (H, W) or (N,).

    Input and coordinates, one linear map to ``dim`` channels, ``depth`` blocks, LayerNorm, and a head of two linear
    maps with tanh in between: the operator of MANO (arXiv:2507.02748). Every point is a token. It accepts any grid
    that its mixer accepts.

    A linear map of the coordinates is enough for fields. For classes, fixed sinusoids are added to the tokens: without
    them, the mean over all points of an image says so little about where something is that training does not start.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        options: dim, depth, mlp_ratio and dropout.
        mixer: called once per block; returns a module from (B, *grid, dim) to (B, *grid, dim).
        axes: number of axes of the grid.
        normalise: whether the mixer is given normalized tokens.
        positions: whether :func:`attn_bench.nn.coordinates.sinusoids` are added to the tokens.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: Mixer.Options,
        mixer: MixerFactory,
        *,
        axes: int = 2,
        normalise: bool = True,
        positions: bool = False,
    ) -> None:
        super().__init__()
        dim = options.dim
        self.positions = positions
        # oneDNN does not help for maps from and to the few channels of a field.
        self.embed = nn.Linear(in_channels + axes, dim)
        self.blocks = _blocks(options, mixer, normalise)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(Linear(dim, dim, inner=True), nn.Tanh(), nn.Linear(dim, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(append_coordinates(x).movedim(1, -1))
        if self.positions:
            x = x + sinusoids(tuple(x.shape[1:-1]), x.shape[-1], x)
        for block in self.blocks:  # calling the Sequential would keep its input alive until the end
            x = block(x)
        return self.head(self.norm(x)).movedim(-1, 1)


class TextTransformer(nn.Module):
    """Map tokens (B, N), integers below ``inputs``, to scores (B, N, outputs).

    An embedding of each token, ``depth`` blocks, LayerNorm and a separate linear head. Positions come from a depthwise
    convolution of the embeddings, added to them, which works for any length (conditional positional encoding, Chu et
    al., arXiv:2102.10882). In short training on bytes it is far better than sinusoids. Positions beyond its reach are
    left to the mixer; a causal mixer can infer them from the number of earlier tokens (Haviv et al., arXiv:2203.16634).

    Args:
        inputs: size of the vocabulary.
        outputs: scores per token.
        options: dim, depth, mlp_ratio and dropout.
        mixer: called once per block; returns a module from (B, N, dim) to (B, N, dim).
        causal: whether the convolution sees only the past; with a causal mixer the whole network is then causal.
        normalise: whether the mixer is given normalized tokens.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        options: Mixer.Options,
        mixer: MixerFactory,
        *,
        causal: bool,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        dim = options.dim
        self.embed = nn.Embedding(inputs, dim)
        self.reach = (REACH, 0 if causal else REACH)
        self.position = nn.Conv1d(dim, dim, sum(self.reach) + 1, groups=dim)
        self.blocks = _blocks(options, mixer, normalise)
        self.norm = nn.LayerNorm(dim)
        self.head = Linear(dim, outputs)

    def forward(self, tokens_BN: Tensor) -> Tensor:
        x_BNC = self.embed(tokens_BN)
        x_BNC = x_BNC + self.position(F.pad(x_BNC.mT, self.reach)).mT
        for block in self.blocks:
            x_BNC = block(x_BNC)
        return self.head(self.norm(x_BNC))


class RowByRow(nn.Module):
    """Pass a grid of tokens, (B, *grid, dim), row by row to a mixer of sequences, (B, N, dim)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.flatten(1, -2)).view_as(x)


def transformer_around(plugin: Mixer, problem: Problem, options: Mixer.Options) -> nn.Module:
    """Return the transformer that serves the kind of ``problem`` around the mixers of ``plugin``.

    For images and masks it computes features for the head that all models share
    (:func:`attn_bench.nn.heads.with_head`).

    Raises:
        OptionError: an invalid combination of values.
    """
    tokens = plugin.tokens(problem, options)

    def mixer() -> nn.Module:
        mixer = plugin.mixer(tokens, options)
        return RowByRow(mixer) if plugin.layout == "sequence" and len(tokens.grid) > 1 else mixer

    normalise = not plugin.normalises
    if problem.spec.text:
        return TextTransformer(
            problem.inputs, problem.outputs, options, mixer, causal=tokens.causal, normalise=normalise
        )
    patch, axes = plugin.patch_size(problem, options), len(problem.grid)

    def operator(outputs: int) -> nn.Module:
        cells = patch**axes
        positions = problem.spec.head is not None
        module = Transformer(
            problem.inputs * cells, outputs * cells, options, mixer, axes=axes, normalise=normalise, positions=positions
        )
        return Patched(module, patch) if patch > 1 else module

    return with_head(problem, options.dim, operator)
