"""Fast Multipole Attention as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.nn.checks import check_heads, check_hidden, check_positive
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import Complexity, Problem

if TYPE_CHECKING:
    from torch import nn


class FMA(PooledModel):
    """The transformer of ``full`` with Fast Multipole Attention in the place of exact attention.

    In 1D on text, causal or not (:class:`baselines.fma.attention.FastMultipoleAttention1d`), in 2D on fields and images
    (:class:`baselines.fma.attention.FastMultipoleAttention2d`; the paper's code of it is not published, this is our
    reading). Every level of the problem's grid has weights of its own; larger grids stretch the last level's.
    """

    name = "fma"
    summary = "Fast Multipole Attention: exact to near tokens, to summaries of far ones by level, one softmax"
    citation = "arXiv:2310.11960"
    kinds = frozenset({"field", "mask", "image", "causal-text", "masked-text"})
    complexity = "n log n"
    presets = {
        "linear": {"query_downsampling": True},
        "average": {"summary": "average", "scale_coarse": True},
        "linear-average": {"query_downsampling": True, "summary": "average", "scale_coarse": True},
    }
    imports = ("torch",)

    def growth(self, *, query_downsampling: bool = False, **options: Any) -> Complexity:
        """Return the paper's O(n log n), or its O(n) where queries are down-sampled too."""
        return "n" if query_downsampling else "n log n"

    def build(
        self,
        problem: Problem,
        *,
        dim: int = 48,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        block_size: int = 32,
        cell_size: int = 4,
        rank: int | tuple[int, ...] = 4,
        summary: Literal["grouped", "dense", "average"] = "grouped",
        scale_coarse: bool = False,
        query_downsampling: bool = False,
        dropout: float = 0.0,
    ) -> nn.Module:
        """Return the transformer with random weights.

        Args:
            dim: channels of a token.
            depth: blocks of attention and feed-forward network.
            heads: attention heads.
            mlp_ratio: hidden channels of the feed-forward networks over dim.
            block_size: tokens of a fine block of a text.
            cell_size: side of a fine cell of a grid.
            rank: summaries of an interval or cell, one number or one a level; must divide its tokens.
            summary: how tokens become summaries: by channel, by all channels of a head, or as averages.
            scale_coarse: add the logarithm of the tokens that a summary stands for to its score.
            query_downsampling: queries share one at coarse levels too, which makes it linear (see preset linear).
            dropout: dropout probability of the attention's output.

        Raises:
            OptionError: a value cannot work.
        """
        check_positive(depth=depth, block_size=block_size, cell_size=cell_size)
        check_heads(dim, heads)
        check_hidden(dim, mlp_ratio)
        from attn_bench.nn.transformer import transformer_for
        from baselines.fma.attention import FastMultipoleAttention1d, FastMultipoleAttention2d

        shared: dict[str, Any] = {
            "heads": heads,
            "rank": rank,
            "summary": summary,
            "scale_coarse": scale_coarse,
            "query_downsampling": query_downsampling,
            "dropout": dropout,
        }

        def mixer(width: int) -> nn.Module:
            if problem.kind.endswith("text"):
                causal, (length,) = problem.kind == "causal-text", problem.grid
                return FastMultipoleAttention1d(width, block_size=block_size, causal=causal, length=length, **shared)
            return FastMultipoleAttention2d(width, cell_size=cell_size, grid=problem.grid, **shared)

        return transformer_for(problem, dim, depth, mlp_ratio, mixer)

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return how many levels have interaction lists on the problem's grid; none is exact attention."""
        from baselines.fma.attention import FastMultipoleAttention

        attention = next(part for part in module.modules() if isinstance(part, FastMultipoleAttention))
        return {"levels": attention.tree.levels}
