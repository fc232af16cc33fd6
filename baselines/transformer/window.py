"""Sliding window attention as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attn_bench.plugin import Mixer, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn


class SlidingWindow(Mixer):
    """The transformer of ``full`` with attention within a sliding window (:mod:`baselines.transformer.sliding_window`).

    Shows what a local model can achieve: ``depth`` blocks reach ``depth`` windows far. Attention is exact within the
    window, which is cropped at the edges of the grid and goes on at the other end of periodic axes.
    """

    name = "window"
    summary = "Softmax attention within a sliding window of tokens, along each axis of a grid"
    citation = "arXiv:2004.05150"
    kinds = Mixer.kinds | {"causal-text"}
    complexity = "n"
    presets = {"flex": {"backend": "flex"}}
    imports = ("torch",)

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of sliding window attention."""

        window_size: Annotated[
            int | None,
            Field(
                ge=1,
                description="tokens seen: on causal text the token and those before it, otherwise half of them on each "
                "side of a token, along each axis; if unset, 128 on text and 7 (7 x 7) on a grid",
            ),
        ] = None
        backend: Annotated[
            Literal["blocks", "flex"],
            Field(description="implementation: SDPA on blocks, or FlexAttention (flex), which needs CUDA"),
        ] = "blocks"

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return attention within the window."""
        from baselines.transformer.sliding_window import WindowAttention

        size = options.window_size or (128 if len(tokens.grid) == 1 else 7)
        if options.backend == "flex":
            from baselines.transformer.flex_window import attend_flex

            return WindowAttention(options.dim, options.heads, size, tokens.causal, tokens.periodic, attend_flex)
        return WindowAttention(options.dim, options.heads, size, tokens.causal, tokens.periodic)

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if FlexAttention cannot train here, or a mixer does not support the problem; else None."""
        if options.backend == "flex" and device != "cuda":
            return f"backend is flex, which has no backward pass on {device}; set backend=blocks"
        return super().unsupported(problem, device, options)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the size of the window, and ``wraps`` if it goes on at the other end of an axis."""
        from baselines.transformer.sliding_window import WindowAttention

        mixer = next(m for m in module.modules() if isinstance(m, WindowAttention))
        return {"window_size": mixer.window_size, **({"wraps": True} if any(mixer.periodic) else {})}
