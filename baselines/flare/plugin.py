"""FLARE as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attn_bench.plugin import Mixer, Tokens

if TYPE_CHECKING:
    from torch import nn


class FLARE(Mixer):
    """The transformer of ``full`` with FLARE (:class:`baselines.flare.attention.FLAREAttention`).

    The preset ``paper`` has the sizes of the authors' Darcy script. Their feed-forward networks are residual networks
    of five maps of ``dim`` channels; with ``mlp_ratio`` 2.5 ours have the same number of parameters.
    """

    name = "flare"
    summary = "Attention through latent queries: two calls of exact attention"
    citation = "arXiv:2508.12594"
    complexity = "n"
    presets = {"paper": {"dim": 64, "depth": 8, "heads": 16, "mlp_ratio": 2.5, "latents": 256}}
    imports = ("torch",)

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of attention through latent tokens."""

        latents: Annotated[int, Field(ge=1, description="latent queries per head")] = 32
        kv_layers: Annotated[int, Field(ge=0, description="hidden layers of the networks of keys and values")] = 3

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return attention through latent tokens."""
        from baselines.flare.attention import FLAREAttention

        return FLAREAttention(options.dim, options.heads, options.latents, options.kv_layers)
