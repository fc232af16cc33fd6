"""neuraloperator, imported without its side effects, and its spectral convolution in any precision."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

# neuraloperator's import resets the process's warning filters.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from neuralop.layers.spectral_convolution import SpectralConv
    from neuralop.models import FNO as NeuralopFNO

__all__ = ["Float32SpectralConv", "NeuralopFNO", "frequencies", "off_by_one_on_odd_rows"]


class Float32SpectralConv(SpectralConv):
    """neuraloperator's spectral convolution, always in float32, as there is no FFT in bfloat16.

    Outside autocast it gives the same numbers as its parent.
    """

    def forward(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float(), output_shape)


def off_by_one_on_odd_rows() -> bool:
    """Tell whether the installed neuraloperator puts row frequencies back in the wrong place on an odd number of rows.

    2.0.0 does: it undoes ``fftshift`` with ``fftshift``, which is not its inverse there, so that each output frequency
    is one too low along the rows (neuraloperator pull request 688 corrects it).
    """
    x = torch.cos(torch.arange(3) * (2 * torch.pi / 3)).view(1, 1, 3, 1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        convolution = SpectralConv(1, 1, (3, 1), bias=False)
        for weight in convolution.parameters():
            weight.fill_(1)
        return not torch.allclose(convolution(x), x, atol=1e-5)


def frequencies(fno: NeuralopFNO, grid: tuple[int, int]) -> list[int]:
    """Return how many frequencies ``fno`` uses on ``grid``: along rows (both signs) and along columns (from 0 up)."""
    if fno.domain_padding is not None:
        fractions = fno.domain_padding.domain_padding
        fractions = fractions if isinstance(fractions, list) else [fractions] * len(grid)
        grid = tuple(n + 2 * round(fraction * n) for n, fraction in zip(grid, fractions))
    rows, columns = fno.fno_blocks.convs[0].n_modes
    return [min(rows, grid[0]), min(columns, grid[1] // 2 + 1)]
