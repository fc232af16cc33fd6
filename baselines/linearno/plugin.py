"""LinearNO's attention as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_bench.plugin import Mixer, Tokens
from baselines.transolver.plugin import Transolver

if TYPE_CHECKING:
    from torch import nn


class LinearNO(Mixer):
    """The transformer of ``full`` with LinearNO (:class:`baselines.linearno.attention.SoftmaxFeatureAttention`).

    Our reading of the paper's abstract and its published summaries: Transolver without attention between slices, and
    with two projections, for queries and for keys, instead of one. Features and values come from the same maps as
    Transolver's, and so do the sizes of the preset ``paper``.
    """

    name = "linearno"
    summary = "Linear attention with softmax features: Transolver without attention between slices"
    citation = "arXiv:2511.06294"
    complexity = "n"
    presets = Transolver.presets
    imports = ("torch",)
    Options = Transolver.Options

    def mixer(self, tokens: Tokens, options: Transolver.Options) -> nn.Module:
        """Return linear attention with softmax features."""
        from baselines.linearno.attention import SoftmaxFeatureAttention

        return SoftmaxFeatureAttention(options.dim, options.heads, options.slices, mesh=len(tokens.grid) == 2)
