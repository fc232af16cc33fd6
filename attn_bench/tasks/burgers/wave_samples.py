"""Draws initial conditions and solves the equation, at every resolution of a sweep at once.

The distribution is that of FNO (arXiv:2010.08895, section 5.1): N(0, 625 (-Laplace + 25 I)^-2) on the torus. The mean
is zero unless it is asked for, as in the generator published with it (neuraloperator,
``data_generation/burgers/GRF1.m``): the equation keeps it, so it would be most of the solution. That generator's other
numbers are alpha 2.5, tau 7, sigma 49 and viscosity 1e-3 (``gen_burgers1.m``).

Initial condition and solution are trigonometric polynomials, so that any number of points has their exact values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attn_bench.tasks.burgers.wave_flow import WaveFlow, at_points
from attn_bench.tasks.shared.streams import Arrays, Stream, check_device, enough_steps, make_all, normals

# Counts changes that alter the data; part of the cache's key.
VERSION = 1
# Wavenumbers of the initial condition, whatever the number of points; those above have 1e-9 of its variance.
MODES = 1024
# Points solved at once: on a CPU they should fit in a core's cache; a GPU needs many.
CPU_POINTS, CUDA_POINTS = 1 << 14, 1 << 24


@dataclass(frozen=True)
class Distribution:
    """Everything that determines the samples, independent of the resolution and their number."""

    viscosity: float
    time: float
    alpha: float
    tau: float
    sigma: float
    mean: bool
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
    """Return the first ``count`` samples of a stream at every resolution R.

    ``initial`` and ``solution`` are float32, (count, R), at the points i / R.

    Raises:
        OptionError: the device does not exist.
        DataError: the solver's step is too long, or there is not enough memory.
    """
    check_device("burgers", device)
    n = distribution.fine
    steps = max(1, math.ceil(distribution.steps * distribution.time))
    flow = WaveFlow(n, distribution.viscosity, distribution.time / steps, device)

    def make(chunk: range) -> dict[int, dict[str, Tensor]]:
        start = torch.stack([initial(distribution, stream, index) for index in chunk]).to(device)
        with enough_steps("burgers", distribution.steps):
            end = _moving(flow, _resized(start, n // 2 + 1), steps, distribution.time)[:, : (n - 1) // 3 + 1]
        both = {"initial": start, "solution": end}
        return {r: {name: at_points(each, r).float() for name, each in both.items()} for r in resolutions}

    return make_all(
        "burgers",
        stream,
        count,
        {r: dict.fromkeys(("initial", "solution"), ((r,), np.float32)) for r in resolutions},
        make,
        samples="Burgers samples",
        at_once=max(1, (CUDA_POINTS if device == "cuda" else CPU_POINTS) // n),
        device=device,
        on_samples=on_samples,
    )


def initial(distribution: Distribution, stream: Stream, index: int) -> Tensor:
    """Return the Fourier coefficients of one initial condition, (MODES + 1,), complex.

    A coefficient of wavenumber k has the variance sigma^2 (4 pi^2 k^2 + tau^2)^-alpha, half in each part; the mean has
    all of it in its real part.
    """
    drawn = torch.from_numpy(normals(distribution.seed, stream, index, (MODES + 1, 2)))
    k = 2 * math.pi * torch.arange(MODES + 1, dtype=torch.float64)
    deviation = distribution.sigma * (k.square() + distribution.tau**2) ** (-distribution.alpha / 2)
    waves = torch.view_as_complex(drawn) * deviation / math.sqrt(2)
    waves[0] = waves[0].real * math.sqrt(2) if distribution.mean else 0
    return waves


def _moving(flow: WaveFlow, start: Tensor, steps: int, time: float) -> Tensor:
    """Return the solution, computed in the frame that moves with the mean, where velocities are lower."""
    mean = start[:, :1].real
    end = flow.solve(torch.cat([torch.zeros_like(start[:, :1]), start[:, 1:]], 1), steps)
    k = 2 * math.pi * torch.arange(end.shape[1], dtype=torch.float64, device=end.device)
    end = end * torch.exp(-1j * k * mean * time)
    return torch.cat([start[:, :1], end[:, 1:]], 1)


def _resized(coefficients: Tensor, count: int) -> Tensor:
    """Return the first ``count`` coefficients, with zeros where there are fewer."""
    kept = coefficients[:, :count]
    return torch.cat([kept, kept.new_zeros(len(kept), count - kept.shape[1])], 1)
