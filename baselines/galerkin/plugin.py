"""Galerkin and Fourier attention as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from attn_bench.plugin import Complexity, Mixer, Tokens

if TYPE_CHECKING:
    from torch import nn


class Galerkin(Mixer):
    """The transformer of ``full`` with attention without a softmax (:mod:`baselines.galerkin.attention`).

    It normalizes keys and values, with ``type`` ``fourier`` queries and keys, and nothing before: as in the authors'
    Darcy setting, the attention gets the tokens directly. The authors also append the coordinates of a point to the
    queries, keys and values of each head; here they are channels of the input, as for all mixers. The preset ``paper``
    has the sizes of their Darcy encoder, without its convolutions and its spectral decoder.
    """

    name = "galerkin"
    summary = "Attention without a softmax: products of normalized keys and values"
    citation = "arXiv:2105.14995"
    complexity = "n"
    presets = {
        "paper": {"dim": 128, "depth": 6, "heads": 4, "mlp_ratio": 2.0},
        "fourier": {"type": "fourier"},
    }
    imports = ("torch",)
    normalises = True

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of attention without a softmax."""

        type: Annotated[
            Literal["galerkin", "fourier"],
            Field(description="galerkin: Q (K^T V) / N; fourier: (Q K^T) V / (N sqrt(D)), quadratic in the tokens"),
        ] = "galerkin"

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return attention without a softmax."""
        from baselines.galerkin.attention import GalerkinAttention

        return GalerkinAttention(options.dim, options.heads, options.type)

    def growth(self, options: Options) -> Complexity | None:
        """Return the claimed growth of the type."""
        return "n" if options.type == "galerkin" else "n^2"
