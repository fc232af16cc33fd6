"""Linear attention as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_bench.nn.checks import check_heads, check_hidden, check_positive
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import Problem

if TYPE_CHECKING:
    from torch import nn


class Linear(PooledModel):
    """The transformer of ``full`` with linear attention (:mod:`baselines.transformer.linear_attention`).

    The whole context at linear cost, summed up in one matrix a head. A grid is read as one sequence, row by row.
    """

    name = "linear"
    summary = "Linear attention with features elu(x) + 1"
    citation = "arXiv:2006.16236"
    kinds = frozenset({"field", "mask", "image", "causal-text", "masked-text"})
    complexity = "n"
    imports = ("torch",)

    def build(
        self,
        problem: Problem,
        *,
        dim: int = 48,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 2.0,
    ) -> nn.Module:
        """Return the transformer with random weights.

        Args:
            dim: channels of a token; every grid point is a token.
            depth: blocks of attention and feed-forward network.
            heads: attention heads.
            mlp_ratio: hidden channels of the feed-forward networks over dim.

        Raises:
            OptionError: a value cannot work.
        """
        check_positive(depth=depth)
        check_heads(dim, heads)
        check_hidden(dim, mlp_ratio)
        from attn_bench.nn.transformer import transformer_for
        from baselines.transformer.linear_attention import LinearAttention

        causal = problem.kind == "causal-text"
        return transformer_for(problem, dim, depth, mlp_ratio, lambda width: LinearAttention(width, heads, causal))
