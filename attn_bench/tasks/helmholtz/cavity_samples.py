"""Draws wave speeds and solves the equation, at every resolution of a sweep at once.

The distribution is that of de Hoop, Huang, Qian and Stuart (arXiv:2203.13181), as their generator has it
(Zhengyu-Huang/Operator-Learning, ``Helmholtz/src/Box_Neumann_To_Dirichlet.jl``): frequency 1000; c = 20 + tanh(xi) with
xi of N(0, (-Laplace + 9 I)^-2) with zero Neumann conditions and mean zero, of which the 100 longest waves are drawn;
the derivative is 1 where |x - 1/2| <= 0.15 on one edge and 0 elsewhere on the boundary. It solves with linear elements
on 101 x 101 nodes, where the phase is off by about half a radian across the square (a wavenumber of 50 and cells of
1/100; the relative error of the wavenumber is (k h)^2 / 24); here the equation itself is solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attn_bench.plugin import DataError
from attn_bench.tasks.helmholtz.cavity import TERMS, Drive, Interior, NotConverged, cosines, solve
from attn_bench.tasks.shared.streams import Arrays, Stream, check_device, make_all, normals

# Counts changes that alter the data; part of the cache's key.
VERSION = 1
WAVES = 100
# Where the edge is driven.
CENTRE, HALF_WIDTH = 0.5, 0.15
# Samples solved at once: few on a CPU, whose threads have one such chunk each.
CPU_SAMPLES, CUDA_SAMPLES = 4, 64


@dataclass(frozen=True)
class Distribution:
    """Everything that determines the samples, independent of the resolution and their number."""

    frequency: float
    speed: float
    contrast: float
    alpha: float
    tau: float
    modes: int
    low: int
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

    ``speed`` and ``solution`` are float32, (count, R, R), at the points (i / (R - 1), j / (R - 1)), both ends included.
    The last axis is the one along which waves leave the driven edge, at its end.

    Raises:
        OptionError: the device does not exist.
        DataError: the solver does not converge, or there is not enough memory.
    """
    check_device("helmholtz", device)
    interior = Interior(distribution.modes, distribution.low, device)
    drive = Drive(bump(TERMS).to(device), (distribution.frequency / distribution.speed) ** 2)
    grids = {r: torch.linspace(0, 1, r, dtype=torch.float64, device=device) for r in resolutions}
    known = {r: drive.at(x) for r, x in grids.items()}
    waves = {r: cosines(x, distribution.modes) for r, x in grids.items()}

    def make(chunk: range) -> dict[int, dict[str, Tensor]]:
        xi = torch.stack([field(distribution, stream, index) for index in chunk]).to(device)

        def speed(x: Tensor) -> Tensor:
            return distribution.speed + distribution.contrast * torch.tanh(at_points(xi, x))

        try:
            w = solve((distribution.frequency / speed(interior.points)).square(), interior, drive)
        except NotConverged as error:
            raise DataError(f"generating helmholtz data failed: {error}; choose a smaller helmholtz.contrast") from None
        return {
            r: {"speed": speed(x).float(), "solution": (known[r] + waves[r] @ w @ waves[r].T).float()}
            for r, x in grids.items()
        }

    return make_all(
        "helmholtz",
        stream,
        count,
        {r: dict.fromkeys(("speed", "solution"), ((r, r), np.float32)) for r in resolutions},
        make,
        samples="Helmholtz samples",
        at_once=CUDA_SAMPLES if device == "cuda" else CPU_SAMPLES,
        device=device,
        on_samples=on_samples,
    )


def bump(count: int) -> Tensor:
    """Return the coefficients of the driven edge's derivative in orthonormal cosines, (count,)."""
    m = math.pi * torch.arange(1, count, dtype=torch.float64)
    waves = math.sqrt(2) * 2 * torch.sin(m * HALF_WIDTH) * torch.cos(m * CENTRE) / m
    return torch.cat([waves.new_tensor([2 * HALF_WIDTH]), waves])


def field(distribution: Distribution, stream: Stream, index: int) -> Tensor:
    """Return the coefficients of one xi in orthonormal cosines, (K, K), of which those of the longest waves are not 0.

    The wave (k, l) has the variance (pi^2 (k^2 + l^2) + tau^2)^-alpha.
    """
    chosen = longest(WAVES)
    deviation = (math.pi**2 * chosen.square().sum(1) + distribution.tau**2) ** (-distribution.alpha / 2)
    drawn = torch.from_numpy(normals(distribution.seed, stream, index, (WAVES,)))
    size = int(chosen.max()) + 1
    coefficients = torch.zeros(size, size, dtype=torch.float64)
    coefficients[chosen[:, 0], chosen[:, 1]] = drawn * deviation
    return coefficients


def longest(count: int) -> Tensor:
    """Return the wave vectors (k, l) of smallest k^2 + l^2, without (0, 0), in this order, (count, 2)."""
    side = torch.arange(math.isqrt(2 * count) + 2)
    pairs = torch.cartesian_prod(side, side)[1:]
    return pairs[pairs.square().sum(1).argsort(stable=True)][:count]


def at_points(coefficients: Tensor, x: Tensor) -> Tensor:
    """Return the functions with these coefficients, (B, K, K), at the points (x_i, x_j), (B, len(x), len(x))."""
    waves = cosines(x, coefficients.shape[-1])
    return waves @ coefficients @ waves.T
