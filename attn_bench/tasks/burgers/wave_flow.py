"""The viscous Burgers equation on the torus [0, 1), solved pseudo-spectrally.

    u_t + (u^2 / 2)_x = nu u_xx

The square is formed at the points and freed of aliases by the 2/3 rule (Orszag 1971). Time is advanced by ETDRK4, the
exponential Runge-Kutta scheme of fourth order of Cox and Matthews (J. Comput. Phys. 176, 2002), in which viscosity is
exact; its coefficients are means over a circle around each exponent, which has no cancellation (Kassam and Trefethen,
SIAM J. Sci. Comput. 26, 2005).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attn_bench.tasks.shared.streams import NotFinite

# Points on the upper half of the circle.
CIRCLE = 32


class WaveFlow:
    """The equation with n points, of whose wavenumbers those up to (n - 1) // 3 are kept.

    Args:
        n: points.
        viscosity: nu.
        dt: the time step.
    """

    def __init__(self, n: int, viscosity: float, dt: float, device: str = "cpu") -> None:
        self.n = n
        k = torch.arange(n // 2 + 1, dtype=torch.float64, device=device)
        self.kept = k <= (n - 1) // 3
        self.slope = -0.5j * (2 * math.pi * k) * self.kept
        exponent = -viscosity * (2 * math.pi * k).square() * dt
        self.whole, self.half = torch.exp(exponent), torch.exp(exponent / 2)
        angles = math.pi * (torch.arange(CIRCLE, dtype=torch.float64, device=device) + 0.5) / CIRCLE
        z = exponent[:, None] + torch.exp(1j * angles)
        e, cubed = torch.exp(z), z**3
        self.phi = dt * ((torch.exp(z / 2) - 1) / z).mean(1).real
        self.first = dt * ((-4 - z + e * (4 - 3 * z + z**2)) / cubed).mean(1).real
        self.middle = dt * ((2 + z + e * (z - 2)) / cubed).mean(1).real
        self.last = dt * ((-4 - 3 * z - z**2 + e * (4 - z)) / cubed).mean(1).real

    def solve(self, coefficients: Tensor, steps: int) -> Tensor:
        """Return the Fourier coefficients after ``steps`` steps, (B, n // 2 + 1), from those at the start.

        Coefficients are those of ``rfft`` with ``norm="forward"``, independent of n; wavenumbers that are not kept are
        dropped.

        Raises:
            NotFinite: the time step is too long.
        """
        v = coefficients * self.kept
        for _ in range(steps):
            v = self._advanced(v)
        if not bool(torch.isfinite(torch.view_as_real(v)).all()):
            raise NotFinite("the solution left the range of numbers")
        return v

    def _advanced(self, v: Tensor) -> Tensor:
        rate_v = self._rate(v)
        a = self.half * v + self.phi * rate_v
        rate_a = self._rate(a)
        b = self.half * v + self.phi * rate_a
        rate_b = self._rate(b)
        c = self.half * a + self.phi * (2 * rate_b - rate_v)
        rates = self.first * rate_v + 2 * self.middle * (rate_a + rate_b) + self.last * self._rate(c)
        return self.whole * v + rates

    def _rate(self, v: Tensor) -> Tensor:
        """Return what advection changes the coefficients by, in a unit of time."""
        u = torch.fft.irfft(v, n=self.n, norm="forward")
        return self.slope * torch.fft.rfft(u.square(), norm="forward")


def at_points(coefficients: Tensor, points: int) -> Tensor:
    """Return the functions with these coefficients at i / points, (B, points), however few or many these are."""
    highest = coefficients.shape[1] - 1
    stride = max(1, -(-(2 * highest + 1) // points))
    return torch.fft.irfft(coefficients, n=points * stride, norm="forward")[:, ::stride]
