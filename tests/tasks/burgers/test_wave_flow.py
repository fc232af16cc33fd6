"""The solver against the exact solution of Cole and Hopf, with its measured order of convergence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from attn_bench.tasks.burgers.wave_flow import WaveFlow, at_points
from attn_bench.tasks.shared.streams import NotFinite


def smooth(n: int) -> torch.Tensor:
    """Return coefficients of 0.3 + sin(2 pi x) + 0.5 cos(4 pi x + 1), (1, n // 2 + 1)."""
    x = np.arange(n) / n
    u = 0.3 + np.sin(2 * math.pi * x) + 0.5 * np.cos(4 * math.pi * x + 1)
    return torch.fft.rfft(torch.from_numpy(u)[None], norm="forward")


def cole_hopf(coefficients: torch.Tensor, viscosity: float, time: float, n: int = 4096) -> np.ndarray:
    """Return u = c - 2 nu phi_x / phi at (i / n), (B, n), where phi solves the heat equation and c is the mean of u."""
    k = 2 * math.pi * np.arange(n // 2 + 1)
    u = np.zeros((len(coefficients), n // 2 + 1), complex)
    count = min(u.shape[1], coefficients.shape[1])
    u[:, :count] = coefficients[:, :count].numpy()
    mean = u[:, :1].real
    integral = np.fft.irfft(np.divide(u, 1j * k, out=np.zeros_like(u), where=k > 0), n, norm="forward")
    phi = np.fft.rfft(np.exp(-integral / (2 * viscosity)), norm="forward") * np.exp(-viscosity * k**2 * time)
    # In the frame that moves with the mean.
    phi = phi * np.exp(-1j * k * mean * time)
    slope, whole = (np.fft.irfft(each, n, norm="forward") for each in (1j * k * phi, phi))
    return mean - 2 * viscosity * slope / whole


def error(n: int, steps: int, viscosity: float = 0.02, time: float = 0.5) -> float:
    found = at_points(WaveFlow(n, viscosity, time / steps).solve(smooth(n), steps), n).numpy()
    exact = cole_hopf(smooth(n), viscosity, time)[:, :: 4096 // n]
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_time_converges_with_fourth_order():
    errors = [error(256, steps) for steps in (20, 40, 80)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([4, 4], abs=0.35)


def test_space_converges_faster_than_any_order():
    coarse, middle, fine = (error(n, 400) for n in (32, 64, 128))
    assert coarse < 2e-3
    assert middle < 1e-2 * coarse
    assert fine < 1e-8


def test_the_mean_stays_and_waves_that_are_not_resolved_are_dropped():
    start = smooth(64)
    start[0, 30] = 1
    found = WaveFlow(64, 1e-3, 1e-3).solve(start, 10)
    assert found[0, 0] == pytest.approx(0.3)
    assert (found[0, 22:] == 0).all()
    assert (found[0, 1:22] != 0).all()


def test_a_function_has_the_same_values_at_shared_points():
    coefficients = torch.randn(2, 41, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    coefficients[:, 0] = 1
    x = torch.arange(30, dtype=torch.float64) / 30
    waves = torch.exp(2j * math.pi * torch.outer(torch.arange(41, dtype=torch.float64), x))
    direct = 2 * (coefficients @ waves).real - 1
    for points in (5, 6, 15, 30, 60, 90):
        found = at_points(coefficients, points)
        shared = math.gcd(points, 30)
        torch.testing.assert_close(found[:, :: points // shared], direct[:, :: 30 // shared])


def test_a_step_that_is_too_long_is_said():
    with pytest.raises(NotFinite):
        WaveFlow(512, 1e-5, 1.0).solve(100 * smooth(512), 40)
