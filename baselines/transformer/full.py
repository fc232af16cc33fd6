"""Exact attention between all tokens as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attn_bench.plugin import Mixer, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn


class FullAttention(Mixer):
    """A transformer with exact softmax attention between all points of a grid, or all tokens of a text.

    It is the upper bound of what an approximation can see, and the cost that it has to beat
    (:func:`baselines.transformer.softmax_attention.attend`). The defaults are those of ``mano``.
    ``backend`` selects the kernels and does not change the result; the column ``effective`` names them.
    """

    name = "full"
    summary = "Exact softmax attention between all tokens, with kernels of SDPA or xformers"
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
            Literal["auto", "math", "flash", "memory-efficient", "cudnn", "xformers"],
            Field(
                description="kernels: those of PyTorch's SDPA, by name or its own choice (auto), or xformers; on a CPU "
                "only auto, math and flash"
            ),
        ] = "auto"

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return exact attention."""
        from attn_bench.nn.multi_head import MultiHead, Remembering
        from baselines.transformer.memories import KeyValues
        from baselines.transformer.softmax_attention import attend

        attend = partial(attend, backend=options.backend, causal=tokens.causal)
        if tokens.causal:
            return Remembering(options.dim, options.heads, attend, KeyValues())
        return MultiHead(options.dim, options.heads, attend)

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if the kernels cannot run here, or a mixer does not support the problem; else None."""
        if options.backend in ("xformers", "memory-efficient", "cudnn") and device != "cuda":
            return f"backend is {options.backend}, which runs only on CUDA, not {device}; set backend=auto"
        if options.backend == "xformers" and find_spec("xformers") is None:
            return "xformers is not installed; install it (pip install xformers) or set backend=auto"
        return super().unsupported(problem, device, options)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the kernels of the attention: those given, or those that SDPA chooses for one sample."""
        from attn_bench.nn.multi_head import MultiHead
        from baselines.transformer.softmax_attention import kernels_of_auto

        mixer: Any = next(part for part in module.modules() if isinstance(part, MultiHead))
        settings = mixer.attend.keywords
        if settings["backend"] != "auto":
            return {"backend": settings["backend"]}
        weight = mixer.project.weight
        head_dim = weight.shape[0] // mixer.heads
        return {"backend": kernels_of_auto(mixer.heads, problem.tokens, head_dim, settings["causal"], weight)}
