"""Nyström attention as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attn_bench.plugin import Mixer, OptionError, Tokens

if TYPE_CHECKING:
    from torch import nn


class Nystrom(Mixer):
    """The transformer of ``full`` with the Nyström attention of the package nystrom-attention, unchanged.

    Softmax attention via landmarks, the means of stretches of the sequence: softmax(Q L_k^T)
    softmax(L_q L_k^T)^+ softmax(L_q K^T) V, plus a convolution of the values along the sequence. A grid is read as one
    sequence, row by row. The library, like the authors' code, scales the start of the pseudo-inverse's iteration by the
    largest column sum of the whole batch: without convergence, an output depends slightly on the rest of its batch.
    """

    name = "nystrom"
    summary = "Nyström approximation of softmax attention by landmarks (nystrom-attention)"
    citation = "arXiv:2102.03902"
    complexity = "n"
    layout = "sequence"
    imports = ("torch", "nystrom_attention")

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of Nyström attention."""

        landmarks: Annotated[int, Field(ge=1, description="landmarks, at most one per token")] = 64
        iterations: Annotated[int, Field(ge=1, description="iterations of the pseudo-inverse")] = 6
        kernel_size: Annotated[
            int, Field(ge=0, description="kernel size of the convolution of the values, odd; 0 for none")
        ] = 33

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.kernel_size and self.kernel_size % 2 == 0:
                raise OptionError(f"kernel_size is {self.kernel_size}; it must be odd, or 0 for no convolution")

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return the library's module."""
        from baselines.nystrom.landmarks import AnyLengthNystrom

        return AnyLengthNystrom(
            options.landmarks,
            dim=options.dim,
            heads=options.heads,
            dim_head=options.dim // options.heads,
            pinv_iterations=options.iterations,
            residual=options.kernel_size > 0,
            residual_conv_kernel=options.kernel_size,
        )
