"""neuraloperator, imported without its side effects, and its spectral convolution in any precision."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Importing neuraloperator resets the process's warning filters.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from neuralop import models
    from neuralop.layers.fno_block import FNOBlocks
    from neuralop.layers.spectral_convolution import SpectralConv

__all__ = ["Float32SpectralConv", "NeuralopFNO", "frequencies", "off_by_one_on_odd_rows", "padded", "quiet_uno"]


class _PlainState:
    """Removes neuraloperator's options from a network's state, which torch refuses to load as part of another."""

    state_dict = nn.Module.state_dict
    load_state_dict = nn.Module.load_state_dict


class NeuralopFNO(_PlainState, models.FNO):  # type: ignore[misc]
    """neuraloperator's FNO with torch's own ``state_dict``."""


class NeuralopUNO(_PlainState, models.UNO):  # type: ignore[misc]
    """neuraloperator's UNO with torch's own ``state_dict``."""


class Float32SpectralConv(SpectralConv):  # type: ignore[misc]
    """neuraloperator's spectral convolution, always in float32, as there is no FFT in bfloat16.

    Outside autocast it gives the same numbers as its parent.
    """

    def forward(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float(), output_shape)


def off_by_one_on_odd_rows() -> bool:
    """Tell whether the installed neuraloperator misplaces row frequencies on an odd number of rows.

    2.0.0 does: it undoes ``fftshift`` with ``fftshift``, which is not its inverse there, so that each output frequency
    is one too low along the rows (neuraloperator pull request 688 corrects it).
    """
    x = torch.cos(torch.arange(3) * (2 * torch.pi / 3)).view(1, 1, 3, 1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        convolution = SpectralConv(1, 1, (3, 1), bias=False)
        for weight in convolution.parameters():
            weight.fill_(1)
        return not torch.allclose(convolution(x), x, atol=1e-5)


def padded(operator: Any, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the grid that ``operator`` works on: ``grid`` with its padding."""
    if operator.domain_padding is None:
        return grid
    fractions = operator.domain_padding.domain_padding
    fractions = fractions if isinstance(fractions, list) else [fractions] * len(grid)
    return tuple(n + 2 * round(fraction * n) for n, fraction in zip(grid, fractions))


def frequencies(convolution: Any, grid: tuple[int, ...]) -> list[int]:
    """Return how many frequencies are used on ``grid``: along the last axis from 0 up, along others both signs."""
    return [min(kept, there) for kept, there in zip(convolution.n_modes, (*grid[:-1], grid[-1] // 2 + 1), strict=True)]


def quiet_uno(**settings: Any) -> NeuralopUNO:
    """Return neuraloperator's UNO with :class:`Float32SpectralConv`, built without printing its options.

    UNO has a parameter for its convolution but does not pass it to its blocks.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        return NeuralopUNO(operator_block=partial(FNOBlocks, conv_module=Float32SpectralConv), **settings)
