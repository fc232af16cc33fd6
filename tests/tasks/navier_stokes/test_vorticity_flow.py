"""The solver against exact solutions, and its orders of convergence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from attn_bench.tasks.navier_stokes.vorticity_flow import NotFinite, VorticityFlow

TAU = 2 * math.pi


def points(n):
    axis = torch.arange(n, dtype=torch.float64) / n
    return torch.meshgrid(axis, axis, indexing="ij")


def solved(flow, w, steps, time=1.0):
    (found,) = flow.solve(w[None], 1, time, steps)
    return found[0]


def test_a_vortex_without_advection_decays_as_viscosity_says():
    x, y = points(16)
    w = torch.sin(TAU * x) * torch.sin(TAU * y)  # Taylor and Green
    first, second = (found[0] for found in VorticityFlow(16, 0.01).solve(w[None], 2, 0.5, 4))
    for found, time in ((first, 0.5), (second, 1.0)):
        torch.testing.assert_close(found, w * math.exp(-0.01 * 2 * TAU**2 * time), rtol=0, atol=1e-13)


class Manufactured:
    """w = sin(2 pi (x + t)) cos(4 pi y) + cos(3 t) cos(2 pi (x - y)), with the forcing that makes it a solution."""

    viscosity = 1e-3

    def __init__(self, n):
        self.x, self.y = points(n)

    def parts(self, t):
        wave = torch.sin(TAU * (self.x + t)) * torch.cos(2 * TAU * self.y)
        return wave, math.cos(3 * t) * torch.cos(TAU * (self.x - self.y))

    def exact(self, t):
        return sum(self.parts(t))

    def forcing(self, t):
        x, y = self.x, self.y
        wave, slanted = self.parts(t)
        along, across = torch.cos(TAU * (x + t)), torch.sin(TAU * (x - y)) * math.cos(3 * t)
        wave_y = -2 * TAU * torch.sin(TAU * (x + t)) * torch.sin(2 * TAU * y)
        w_x, w_y = TAU * (along * torch.cos(2 * TAU * y) - across), wave_y + TAU * across
        # psi = wave / (5 tau^2) + slanted / (2 tau^2)
        psi_x = along * torch.cos(2 * TAU * y) / (5 * TAU) - across / (2 * TAU)
        psi_y = wave_y / (5 * TAU**2) + across / (2 * TAU)
        w_t = TAU * along * torch.cos(2 * TAU * y) - 3 * math.sin(3 * t) * torch.cos(TAU * (x - y))
        diffusion = -self.viscosity * TAU**2 * (5 * wave + 2 * slanted)
        return w_t + psi_y * w_x - psi_x * w_y - diffusion

    def error(self, n, steps):
        flow = VorticityFlow(n, self.viscosity, self.forcing)
        return float((solved(flow, self.exact(0.0), steps) - self.exact(1.0)).abs().max())


def test_the_error_of_time_is_of_fourth_order():
    case = Manufactured(24)
    errors = [case.error(24, steps) for steps in (8, 16, 32)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(order == pytest.approx(4, abs=0.15) for order in orders), errors
    assert errors[-1] < 1e-6


def test_the_error_of_space_is_spectral():
    """A flow that develops fine structure: each grid is far nearer to the finest than the one before."""
    x, y = points(96)
    w = 3 * (torch.sin(TAU * x) * torch.cos(TAU * y) + torch.cos(TAU * (x + 2 * y)))
    finest = solved(VorticityFlow(96, 0.02), w, 96)
    errors = []
    for n in (16, 32, 48):
        k = 96 // n
        found = solved(VorticityFlow(n, 0.02), w[::k, ::k], 96)
        errors.append(float((found - finest[::k, ::k]).abs().max() / finest.abs().max()))
    assert errors[1] < 0.05 * errors[0]
    assert errors[2] < 0.05 * errors[1], errors


def test_products_have_no_aliases():
    """What advection of resolved waves yields is exact: it equals that of a grid of twice the points."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = VorticityFlow(12, 0.0), VorticityFlow(24, 0.0)
    w = torch.fft.rfft2(torch.randn(12, 12, generator=generator, dtype=torch.float64)) * coarse.kept
    on_fine = torch.zeros(24, 13, dtype=torch.complex128)
    for i in range(-3, 4):
        on_fine[i, :4] = w[i, :4] * 4
    rates = coarse._rate(w[None], 0.0)[0], fine._rate(on_fine[None], 0.0)[0]
    for i in range(-3, 4):
        torch.testing.assert_close(rates[0][i, :4] * 4, rates[1][i, :4])


def test_a_step_that_is_too_long_is_said():
    x, y = points(16)
    w = 1e4 * (torch.sin(TAU * x) * torch.cos(TAU * y) + torch.cos(TAU * (x + 2 * y)))
    with pytest.raises(NotFinite, match="before time 50"):
        solved(VorticityFlow(16, 1e-4), w, 50, time=50)
