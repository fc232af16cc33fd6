"""Exact attention between all tokens as a plugin."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.nn.checks import check_heads, check_hidden, check_positive
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import Problem

if TYPE_CHECKING:
    from torch import nn


class FullAttention(PooledModel):
    """A transformer with exact softmax attention between all points of a grid, or all tokens of a text.

    The upper bound of what an approximation can see and the cost it has to beat (:mod:`attn_bench.nn.transformer`,
    :class:`baselines.transformer.softmax_attention.SoftmaxAttention`). On fields it is the operator of MANO but for its attention,
    and the defaults are those of ``mano``. ``backend`` chooses the kernels, not the result.
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

    def build(
        self,
        problem: Problem,
        *,
        dim: int = 48,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        backend: Literal["sdpa", "xformers"] = "sdpa",
    ) -> nn.Module:
        """Return the transformer with random weights.

        Args:
            dim: channels of a token; every grid point is a token.
            depth: blocks of attention and feed-forward network.
            heads: attention heads.
            mlp_ratio: hidden channels of the feed-forward networks over dim.
            backend: kernels of the attention: sdpa (PyTorch) or xformers (CUDA only).

        Raises:
            OptionError: a value cannot work.
        """
        check_positive(depth=depth)
        check_heads(dim, heads)
        check_hidden(dim, mlp_ratio)
        from attn_bench.nn.transformer import transformer_for
        from baselines.transformer.softmax_attention import SoftmaxAttention

        causal = problem.kind == "causal-text"
        return transformer_for(
            problem, dim, depth, mlp_ratio, lambda width: SoftmaxAttention(width, heads, backend, causal)
        )

    def unsupported(self, problem: Problem, device: str, *, backend: str = "sdpa", **options: Any) -> str | None:
        """Say why xformers cannot run here."""
        if backend != "xformers":
            return None
        if device != "cuda":
            return f"xformers has memory-efficient attention for CUDA alone, not {device}; take backend=sdpa"
        if find_spec("xformers") is None:
            return "xformers is not installed; install it (pip install xformers) or take backend=sdpa"
        return None
