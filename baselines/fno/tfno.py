"""neuraloperator's tensorized Fourier neural operator as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from baselines.fno.plugin import FNO

if TYPE_CHECKING:
    from torch import nn


class TFNO(FNO):
    """The model ``fno`` with its spectral weights as a factorized tensor that is never expanded (arXiv:2310.00120)."""

    name = "tfno"
    summary = "Fourier neural operator with factorized spectral weights (neuraloperator)"
    citation = "arXiv:2310.00120"
    presets = {}

    @dataclass(frozen=True)
    class Options(FNO.Options):
        """Options of the operator; those of ``fno`` and the factorization."""

        factorization: Annotated[
            Literal["tucker", "cp", "tt"], Field(description="form of the spectral weights: Tucker, CP or tensor train")
        ] = "tucker"
        rank: Annotated[
            float,
            Field(gt=0, le=1, description="parameters of the factors, divided by those of the full spectral weights"),
        ] = 0.4

    def operator(self, options: Any, modes: tuple[int, ...], **settings: Any) -> nn.Module:
        """Return neuraloperator's FNO with factorized weights, which is its TFNO."""
        return super().operator(options, modes, factorization=options.factorization, rank=options.rank, **settings)
