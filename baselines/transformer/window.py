"""Sliding window attention on text as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_bench.nn.checks import check_heads, check_hidden, check_positive
from attn_bench.plugin import Model, Problem

if TYPE_CHECKING:
    from torch import nn


class SlidingWindow(Model):
    """The transformer of ``full`` with attention within a sliding window (:mod:`baselines.transformer.sliding_window`).

    What only looks nearby can do: ``depth`` blocks reach ``depth`` windows back. Exact within the window.
    """

    name = "window"
    summary = "Softmax attention within a sliding window of tokens"
    citation = "arXiv:2004.05150"
    kinds = frozenset({"causal-text", "masked-text"})
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
        window: int = 128,
    ) -> nn.Module:
        """Return the transformer with random weights.

        Args:
            dim: channels of a token.
            depth: blocks of attention and feed-forward network.
            heads: attention heads.
            mlp_ratio: hidden channels of the feed-forward networks over dim.
            window: tokens seen: the last ones, itself included, on causal text; half on each side on masked text.

        Raises:
            OptionError: a value cannot work.
        """
        check_positive(depth=depth, window=window)
        check_heads(dim, heads)
        check_hidden(dim, mlp_ratio)
        from attn_bench.nn.transformer import transformer_for
        from baselines.transformer.sliding_window import WindowAttention

        causal = problem.kind == "causal-text"
        return transformer_for(
            problem, dim, depth, mlp_ratio, lambda width: WindowAttention(width, heads, window, causal)
        )
