"""Linear attention as a plugin."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attn_bench.plugin import Mixer, Tokens

if TYPE_CHECKING:
    from torch import nn


class Linear(Mixer):
    """The transformer of ``full`` with linear attention (:mod:`baselines.transformer.linear_attention`).

    The whole context at linear cost, summarized in one matrix per head. A grid is read as one sequence, row by row.
    """

    name = "linear"
    summary = "Linear attention with features elu(x) + 1"
    citation = "arXiv:2006.16236"
    kinds = frozenset({"field", "mask", "image", "causal-text", "masked-text"})
    complexity = "n"
    imports = ("torch",)

    def mixer(self, tokens: Tokens, options: Mixer.Options) -> nn.Module:
        """Return linear attention."""
        from attn_bench.nn.multi_head import MultiHead, Remembering
        from baselines.transformer.linear_attention import attend_linear
        from baselines.transformer.memories import Sums

        attend = partial(attend_linear, causal=tokens.causal)
        if tokens.causal:
            return Remembering(options.dim, options.heads, attend, Sums())
        return MultiHead(options.dim, options.heads, attend)
