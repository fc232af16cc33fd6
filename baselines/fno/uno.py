"""neuraloperator's U-shaped neural operator as a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from attn_bench.plugin import Problem
from baselines.fno.plugin import FNO

if TYPE_CHECKING:
    from torch import nn


class UNO(FNO):
    """neuraloperator's UNO, unchanged: Fourier layers whose grid halves on the way down and doubles on the way up.

    One layer on the full grid, ``levels`` layers that halve it, one on the coarsest grid, ``levels`` that double it and
    one on the full grid, joined across as in a U-Net. Each halving doubles the channels and halves ``n_modes``. All
    skip connections are linear, since widths change. On odd sides a layer rounds the size of its grid.
    """

    name = "uno"
    summary = "U-shaped neural operator (neuraloperator): Fourier layers on successively coarser grids and back"
    citation = "arXiv:2204.11127"
    presets = {}

    @dataclass(frozen=True)
    class Options(FNO.Options):
        """Options of the operator; those of ``fno``, where ``levels`` says how many layers there are."""

        n_layers: ClassVar[None] = None  # type: ignore[misc]
        channel_mlp: ClassVar[None] = None  # type: ignore[misc]
        skip: ClassVar[str] = "linear"  # type: ignore[misc]
        hidden_channels: Annotated[int, Field(ge=1, description="channels on the full grid")] = 16
        lifting_ratio: Annotated[
            float, Field(gt=0, description="hidden channels of the lifting, divided by hidden_channels")
        ] = 2.0
        levels: Annotated[int, Field(ge=1, description="number of times the grid is halved")] = 1

    def operator(self, options: Any, modes: tuple[int, ...], **settings: Any) -> nn.Module:
        """Return neuraloperator's UNO."""
        from baselines.fno.float32_spectral import quiet_uno

        down = range(1, options.levels + 1)
        # The coarser of a layer's two grids.
        levels = [0, *down, options.levels, *reversed(down), 0]
        widths = [0, *down, options.levels, *(level - 1 for level in reversed(down)), 0]
        scales = [1.0, *(0.5 for _ in down), 1.0, *(2.0 for _ in down), 1.0]
        hidden = options.hidden_channels
        return quiet_uno(
            n_layers=len(scales),
            uno_out_channels=[hidden * 2**level for level in widths],
            uno_n_modes=[[max(kept // 2**level, 1) for kept in modes] for level in levels],
            uno_scalings=[[scale] * len(modes) for scale in scales],
            lifting_channels=int(options.lifting_ratio * hidden),
            projection_channels=int(options.projection_ratio * hidden),
            channel_mlp_skip="linear",
            **settings,
        )

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Return a reason if a grid is too small to be halved, or has other axes than ``n_modes``; else None."""
        if min(problem.grid) < 2**options.levels:
            size = " x ".join(map(str, problem.grid))
            return f"levels is {options.levels}; a grid of {size} cannot be halved that often"
        return super().unsupported(problem, device, options)

    def convolutions(self, operator: Any, grid: tuple[int, ...]) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        """Yield the spectral convolution of each layer with its grid."""
        from baselines.fno.float32_spectral import padded

        grid = padded(operator, grid)
        for block, scales in zip(operator.fno_blocks, operator.uno_scalings, strict=True):
            yield block.convs[0], grid
            grid = tuple(round(n * scale) for n, scale in zip(grid, scales, strict=True))
