"""Sliding window attention on text as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attn_bench.plugin import Mixer, Tokens

if TYPE_CHECKING:
    from torch import nn


class SlidingWindow(Mixer):
    """The transformer of ``full`` with attention within a sliding window (:mod:`baselines.transformer.sliding_window`).

    What a model that only looks nearby can do: ``depth`` blocks reach ``depth`` windows back. Exact within the window.
    """

    name = "window"
    summary = "Softmax attention within a sliding window of tokens"
    citation = "arXiv:2004.05150"
    kinds = frozenset({"causal-text", "masked-text"})
    complexity = "n"
    imports = ("torch",)

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of sliding window attention."""

        window_size: Annotated[
            int,
            Field(
                ge=1,
                description="tokens seen: causal, the last ones and itself; on masked text half on each side",
            ),
        ] = 128

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return attention within the window."""
        from baselines.transformer.sliding_window import WindowAttention

        return WindowAttention(options.dim, options.heads, options.window_size, tokens.causal)
