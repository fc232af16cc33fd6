"""Layers of flash-linear-attention as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from attn_bench.plugin import Mixer, Problem, Tokens

if TYPE_CHECKING:
    from torch import nn

Layer = Literal["gla", "deltanet", "gated-deltanet", "retnet", "mamba2", "rwkv7"]


class FLA(Mixer):
    """The transformer of ``full`` with a layer of flash-linear-attention, unchanged; only on CUDA.

    ``fla:gla`` (Gated Linear Attention, arXiv:2312.06635), ``fla:deltanet`` (arXiv:2406.06484), ``fla:gated-deltanet``
    (arXiv:2412.06464), ``fla:retnet`` (arXiv:2307.08621), ``fla:mamba2`` (arXiv:2405.21060) and ``fla:rwkv7``
    (arXiv:2503.14456), with the library's defaults except for channels and heads. Each layer is built as the first of a
    network, so RWKV-7 does not mix in the values of the first layer.
    """

    name = "fla"
    summary = "Causal linear attention and state space layers with Triton kernels (flash-linear-attention, CUDA)"
    citation = "https://github.com/fla-org/flash-linear-attention"
    kinds = frozenset({"causal-text"})
    complexity = "n"
    presets = {layer: {"layer": layer} for layer in get_args(Layer)}
    imports = ("torch", "fla.layers")

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of the layers."""

        dim: Annotated[int, Field(ge=1, description="channels per token")] = 64
        layer: Annotated[Layer, Field(description="layer")] = "gla"

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return the library's layer."""
        from baselines.fla.layers import OutputOnly, build

        return OutputOnly(build(options.layer, options.dim, options.heads))

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if the library is missing or its kernels do not run here; else None."""
        if find_spec("fla") is None or find_spec("transformers") is None:
            return "flash-linear-attention is not installed; install it: pip install 'attn-bench[fla]'"
        if device != "cuda":
            return f"the kernels of flash-linear-attention run on CUDA, not {device}"
        return super().unsupported(problem, device, options)
