"""Transolver's attention as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attn_bench.plugin import Mixer, Tokens

if TYPE_CHECKING:
    from torch import nn


class Transolver(Mixer):
    """The transformer of ``full`` with physics attention (:class:`baselines.transolver.attention.PhysicsAttention`).

    On a grid of two axes features and values come from 3 x 3 convolutions, on a text or a grid of one axis from linear
    maps, the authors' versions for a structured and an irregular mesh. The preset ``paper`` has the sizes of their
    Darcy script; its distances to an 8 x 8 reference grid (``unified_pos``) are not part of the attention, so the
    points have the coordinates that all mixers get.
    """

    name = "transolver"
    summary = "Physics attention: points are grouped into slices, with exact attention between slices"
    citation = "arXiv:2402.02366"
    complexity = "n"
    presets = {"paper": {"dim": 128, "depth": 8, "heads": 8, "mlp_ratio": 1.0, "slices": 64}}
    imports = ("torch",)

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of physics attention."""

        slices: Annotated[int, Field(ge=1, description="slices per head")] = 32

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return physics attention."""
        from baselines.transolver.attention import PhysicsAttention

        return PhysicsAttention(options.dim, options.heads, options.slices, mesh=len(tokens.grid) == 2)
