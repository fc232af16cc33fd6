"""H-Transformer-1D as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from attn_bench.plugin import Mixer, OptionError, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn


class HTransformer(Mixer):
    """The transformer of ``full`` with the hierarchical attention of the package h-transformer-1d, unchanged.

    Each token sees its own block of tokens exactly, and coarser means of tokens further away. A grid is read as one
    sequence, row by row. The package differs from the paper, which shows in its results:

    - Bidirectional, its coarsest level has four blocks and joins them in pairs: the two halves of the padded sequence
      never see each other.
    - Causal, a token sees nothing of the other block of its pair, and a level of width w only if it is the last of w
      tokens, since a mean over queries would look ahead.
    - Each level's scores are shifted by their own maximum before levels are added up, and a block of padding counts in
      the denominator.

    :meth:`effective` reports the share of pairs of tokens that a layer connects.
    """

    name = "htransformer"
    summary = "Hierarchical attention of H-Transformer-1D (package h-transformer-1d)"
    citation = "arXiv:2107.11906"
    kinds = Mixer.kinds | {"causal-text"}
    complexity = "n"
    layout = "sequence"
    imports = ("torch", "h_transformer_1d")

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of hierarchical attention."""

        block_size: Annotated[int, Field(ge=1, description="tokens per block, a power of two")] = 16

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.block_size & (self.block_size - 1):
                raise OptionError(f"block_size is {self.block_size}; it must be a power of two")

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return the library's module."""
        from baselines.htransformer.hierarchy import AnyLengthHierarchical

        return AnyLengthHierarchical(
            prod(tokens.grid),
            options.block_size,
            tokens.causal,
            dim=options.dim,
            heads=options.heads,
            dim_head=options.dim // options.heads,
        )

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the share of pairs of tokens, causal of those that do not look ahead, that a layer connects."""
        from baselines.htransformer.hierarchy import AnyLengthHierarchical, visible

        mixer = next(part for part in module.modules() if isinstance(part, AnyLengthHierarchical))
        return {"visible_pairs": round(visible(mixer), 4)}
