"""Exact attention between all tokens as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from attn_bench.plugin import Mixer, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn


class FullAttention(Mixer):
    """A transformer with exact softmax attention between all points of a grid, or all tokens of a text.

    The upper bound of what an approximation can see and the cost it has to beat
    (:func:`baselines.transformer.softmax_attention.attend`). The defaults are those of ``mano``.
    ``backend`` chooses the kernels, not the result.
    """

    name = "full"
    summary = "Exact softmax attention between all tokens, by SDPA or xformers"
    citation = "arXiv:1706.03762"
    kinds = frozenset({"field", "mask", "image", "causal-text", "masked-text"})
    complexity = "n^2"
    presets = {
        "paper": {"dim": 64, "depth": 8, "heads": 4, "mlp_ratio": 4.0},
        "xformers": {"backend": "xformers"},
    }
    imports = ("torch",)

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of exact attention."""

        backend: Annotated[
            Literal["sdpa", "xformers"],
            Field(description="kernels of the attention: sdpa (PyTorch) or xformers (CUDA only)"),
        ] = "sdpa"

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return exact attention."""
        from attn_bench.nn.multi_head import MultiHead
        from baselines.transformer.softmax_attention import attend

        return MultiHead(options.dim, options.heads, partial(attend, backend=options.backend, causal=tokens.causal))

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Say why xformers cannot run here, or what any mixer cannot serve."""
        if options.backend == "xformers":
            if device != "cuda":
                return f"xformers has memory-efficient attention only for CUDA, not {device}; set backend=sdpa"
            if find_spec("xformers") is None:
                return "xformers is not installed; install it (pip install xformers) or set backend=sdpa"
        return super().unsupported(problem, device, options)
