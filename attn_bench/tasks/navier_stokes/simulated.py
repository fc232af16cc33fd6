"""Draws initial vorticities and solves the equation, at every resolution of a sweep at once.

The distribution is that of FNO (arXiv:2010.08895): an initial vorticity whose covariance is proportional to
(-Laplace + 49 I)^(-5/2) on the torus, and the forcing 0.1 (sin(2 pi (x + y)) + cos(2 pi (x + y))). The amplitude is
that of the generator published with it, whose mode k has the variance 2 * 7^3 (4 pi^2 |k|^2 + 49)^(-5/2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attn_bench.tasks.navier_stokes.vorticity_flow import VorticityFlow
from attn_bench.tasks.shared.streams import Arrays, Stream, check_device, enough_steps, make_all, normals

# Counts changes that alter the data; part of the cache's key.
VERSION = 1
TAU, ALPHA = 7.0, 2.5
# Wavenumbers of the initial vorticity, in each direction, whatever the grid; those above have 5e-5 of its variance.
MODES = 32
# Points solved at once: on a CPU they should fit in a core's cache; a GPU needs many.
CPU_POINTS, CUDA_POINTS = 1 << 12, 1 << 23


@dataclass(frozen=True)
class Distribution:
    """Everything that determines the trajectories, independent of the resolution and their number."""

    viscosity: float
    horizon: int
    fine: int
    steps: int
    seed: int
    version: int = VERSION


def generate(
    distribution: Distribution,
    stream: Stream,
    count: int,
    resolutions: Sequence[int],
    *,
    device: str = "cpu",
    on_samples: Callable[[int], None] = lambda more: None,
) -> Arrays:
    """Return the first ``count`` trajectories of a stream, ``vorticity``, at every resolution R.

    They are float32, (count, horizon, R, R), at the times 1, 2, ..., horizon, and all are restrictions of the same
    solutions.

    Args:
        on_samples: called with the number of further finished trajectories.

    Raises:
        OptionError: the device does not exist.
        DataError: the solver's step is too long, or there is not enough memory.
    """
    check_device("navier-stokes", device)
    n = distribution.fine
    flow = VorticityFlow(n, distribution.viscosity, forcing(n, device), device)

    def make(chunk: range) -> dict[int, dict[str, Tensor]]:
        w = torch.stack([initial(distribution.seed, stream, index, n) for index in chunk]).to(device)
        states: dict[int, list[Tensor]] = {r: [] for r in resolutions}
        with enough_steps("navier-stokes", distribution.steps):
            for state in flow.solve(w, distribution.horizon, 1.0, distribution.steps):
                for r, kept in states.items():
                    kept.append(state[:, :: n // r, :: n // r].float())
        return {r: {"vorticity": torch.stack(kept, 1)} for r, kept in states.items()}

    return make_all(
        "navier-stokes",
        stream,
        count,
        {r: {"vorticity": ((distribution.horizon, r, r), np.float32)} for r in resolutions},
        make,
        samples="trajectories",
        at_once=max(1, (CUDA_POINTS if device == "cuda" else CPU_POINTS) // n**2),
        device=device,
        on_samples=on_samples,
    )


def initial(seed: int, stream: Stream, index: int, n: int) -> Tensor:
    """Return the initial vorticity of one trajectory at the points i / n, (n, n), double precision.

    It is a function, not an array: its Fourier coefficients depend only on seed, stream and index.
    """
    drawn = normals(seed, stream, index, (2, 2 * MODES + 1, 2 * MODES + 1))
    k = torch.arange(-MODES, MODES + 1, dtype=torch.float64)
    squared = 4 * math.pi**2 * (k[:, None] ** 2 + k**2)
    deviation = math.sqrt(2) * TAU ** (ALPHA - 1) * (squared + TAU**2) ** (-ALPHA / 2)
    # As in the published generator the mean is zero: forcing and advection keep it.
    deviation[MODES, MODES] = 0
    waves = torch.exp(2j * math.pi * torch.outer(torch.arange(n, dtype=torch.float64) / n, k))
    return (waves @ (deviation * torch.complex(*torch.from_numpy(drawn))) @ waves.T).real


def forcing(n: int, device: str = "cpu") -> Tensor:
    """Return the right-hand side at the points i / n, (n, n)."""
    points = torch.arange(n, dtype=torch.float64, device=device) / n
    phase = 2 * math.pi * (points[:, None] + points)
    return 0.1 * (torch.sin(phase) + torch.cos(phase))
