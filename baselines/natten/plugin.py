"""Neighborhood attention as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from attn_bench.plugin import Mixer, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn


class Natten(Mixer):
    """The transformer of ``full`` with the neighborhood attention of the package natten, unchanged; only on CUDA.

    Each token attends to the nearest ``kernel_size`` along each axis, every ``dilation``-th of them. Unlike in
    ``window``, a window at an edge is shifted into the grid instead of cropped. NATTEN needs ``kernel_size``
    times ``dilation`` to fit into the grid. It has no backward pass on a CPU.
    """

    name = "natten"
    summary = "Neighborhood attention along each axis of a grid, dilated on request (natten, CUDA)"
    citation = "arXiv:2204.07143"
    kinds = Mixer.kinds | {"causal-text"}
    complexity = "n"
    imports = ("torch", "natten")

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of neighborhood attention."""

        heads: Annotated[int, Field(ge=1, description="attention heads; must divide dim into multiples of 8")] = 3
        kernel_size: Annotated[
            int | None,
            Field(ge=2, description="tokens seen along each axis; if unset, 127 on text and 7 (7 x 7) on a grid"),
        ] = None
        dilation: Annotated[int, Field(ge=1, description="distance between the tokens seen")] = 1

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return the library's module."""
        from natten import NeighborhoodAttention1D, NeighborhoodAttention2D

        attention = NeighborhoodAttention1D if len(tokens.grid) == 1 else NeighborhoodAttention2D
        settings = {"kernel_size": self.kernel_size(tokens, options), "dilation": options.dilation}
        return attention(options.dim, options.heads, is_causal=tokens.causal, **settings)

    @staticmethod
    def kernel_size(tokens: Tokens, options: Options) -> int:
        """Return the tokens seen along each axis: those given, or the default of a text or a grid."""
        return options.kernel_size or (127 if len(tokens.grid) == 1 else 7)

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if natten is missing, cannot train here, or the window does not fit the grid; else None."""
        if find_spec("natten") is None:
            return "natten is not installed; install it: pip install 'attn-bench[natten]'"
        if device != "cuda":
            return f"natten has no backward pass on {device}; it runs on CUDA"
        if options.dim // options.heads % 8:
            return f"heads is {options.heads}; natten needs dim ({options.dim}) over heads to be a multiple of 8"
        tokens = self.tokens(problem, options)
        size = self.kernel_size(tokens, options)
        if size * options.dilation > min(tokens.grid):
            grid = " x ".join(map(str, tokens.grid))
            return f"kernel_size {size} times dilation {options.dilation} exceeds the grid of tokens, {grid}"
        return super().unsupported(problem, device, options)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the size of the window."""
        mixer: Any = next(part for part in module.modules() if hasattr(part, "na_dim"))
        return {"kernel_size": mixer.kernel_size[0]}
