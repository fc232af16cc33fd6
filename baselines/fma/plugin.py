"""Fast Multipole Attention as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attn_bench.plugin import Complexity, Mixer, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn


class FMA(Mixer):
    """The transformer of ``full`` with Fast Multipole Attention instead of exact attention.

    In 1D on text, causal or not, in 2D on fields and images (:class:`baselines.fma.attention.FastMultipoleAttention`;
    the paper's code of 2D is not published, this is our reading). Every level of the problem's grid has weights of its
    own; larger grids stretch the last level's.
    """

    name = "fma"
    summary = "Fast Multipole Attention: near tokens exactly, far tokens as summaries at several levels, in one softmax"
    citation = "arXiv:2310.11960"
    kinds = frozenset({"field", "mask", "image", "causal-text", "masked-text"})
    complexity = "n log n"
    presets = {
        "linear": {"query_downsampling": True},
        "average": {"summary": "average", "scale_coarse": True},
        "linear-average": {"query_downsampling": True, "summary": "average", "scale_coarse": True},
    }
    imports = ("torch",)

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of Fast Multipole Attention; ``dropout`` acts on its output too."""

        block_size: Annotated[int, Field(ge=1, description="tokens in a block of the finest level, on text")] = 32
        cell_size: Annotated[int, Field(ge=1, description="side of a cell of the finest level, on a grid")] = 4
        rank: Annotated[
            int | tuple[int, ...],
            Field(description="summaries per interval or cell, one number or one per level; must divide its tokens"),
        ] = 4
        summary: Annotated[
            Literal["grouped", "dense", "average"],
            Field(description="how tokens are summarized: per channel, over all channels of a head, or by averages"),
        ] = "grouped"
        scale_coarse: Annotated[
            bool, Field(description="add the logarithm of the number of tokens that a summary represents to its score")
        ] = False
        query_downsampling: Annotated[
            bool,
            Field(description="also down-sample queries at coarse levels, which makes the cost linear (preset linear)"),
        ] = False

    def growth(self, options: Options) -> Complexity:
        """Return the paper's O(n log n), or its O(n) where queries are down-sampled too."""
        return "n" if options.query_downsampling else "n log n"

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return Fast Multipole Attention in one or two dimensions.

        Raises:
            OptionError: an invalid value.
        """
        from baselines.fma.attention import FastMultipoleAttention
        from baselines.fma.recurrent import RecurrentFMA

        ranks = (options.rank,) if isinstance(options.rank, int) else options.rank
        # With a summary for every token there is nothing smaller than the context to keep.
        generates = tokens.causal and max(ranks, default=1) <= tokens.grid[0]
        return (RecurrentFMA if generates else FastMultipoleAttention)(
            options.dim,
            tokens.grid,
            options.block_size if len(tokens.grid) == 1 else options.cell_size,
            heads=options.heads,
            rank=options.rank,
            summary=options.summary,
            causal=tokens.causal,
            scale_coarse=options.scale_coarse,
            query_downsampling=options.query_downsampling,
            dropout=options.dropout,
        )

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return how many levels have interaction lists on the problem's grid; none is exact attention.

        On the CPU ``backend`` is ``"cpp"`` or ``"torch"`` (:mod:`baselines.fma.cpp_blocks`).
        """
        from attn_bench.nn.precision import wide_dtype
        from baselines.fma import cpp_blocks
        from baselines.fma.attention import FastMultipoleAttention

        attention = next(part for part in module.modules() if isinstance(part, FastMultipoleAttention))
        found: dict[str, Any] = {"levels": attention.tree.levels}
        weight = attention.qkv.weight
        if weight.device.type == "cpu" and attention.tree.levels:
            served = cpp_blocks.library(wide_dtype(weight.dtype), weight.shape[1] // attention.heads) is not None
            found["backend"] = "cpp" if served else "torch"
        return found
