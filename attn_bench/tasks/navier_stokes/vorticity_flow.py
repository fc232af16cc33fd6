"""The two-dimensional Navier-Stokes equation in vorticity form on the torus [0, 1)^2, solved pseudo-spectrally.

    w_t + u . grad w = nu Laplace w + f,    u = (psi_y, -psi_x),    -Laplace psi = w

Products are formed at the points and freed of aliases by the 2/3 rule (Orszag 1971). Time is advanced by the classical
Runge-Kutta scheme of fourth order, with viscosity integrated exactly (an integrating factor). In what the scheme keeps,
wavenumbers below n / 3, the error of space is spectral, that of time of fourth order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attn_bench.tasks.shared.streams import NotFinite

Forcing = Callable[[float], Tensor]


class VorticityFlow:
    """The equation on an n x n grid, points i / n; the first axis of a field is x, the second y.

    Args:
        n: points of each axis, even.
        viscosity: nu.
        forcing: f, (n, n) or (B, n, n); or a function of time that returns it; None for none.
    """

    def __init__(self, n: int, viscosity: float, forcing: Tensor | Forcing | None = None, device: str = "cpu") -> None:
        self.n, self.viscosity = n, viscosity
        k = 2 * math.pi * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device)
        self.kx, self.ky = k[:, None], k[None, : n // 2 + 1].abs()
        self.squared = self.kx**2 + self.ky**2
        self.inverse = torch.where(self.squared > 0, 1 / self.squared.clamp(min=1), 0)
        largest = 2 * math.pi * ((n - 1) // 3) * (1 + 1e-12)
        self.kept = (self.kx.abs() <= largest) & (self.ky <= largest)
        self.forcing = forcing if forcing is None or callable(forcing) else torch.fft.rfft2(forcing.double())

    def solve(self, w: Tensor, times: int, interval: float, steps: int) -> Iterator[Tensor]:
        """Yield the vorticity at ``interval``, 2 ``interval``, ..., (B, n, n) each.

        Args:
            w: vorticity at time 0, (B, n, n) in double precision; what the scheme does not resolve of it is dropped.
            times: how many.
            steps: of the scheme in each interval.

        Raises:
            NotFinite: the time step, ``interval / steps``, is too long.
        """
        dt = interval / steps
        half = torch.exp(-self.viscosity * self.squared * dt / 2)
        state = torch.fft.rfft2(w) * self.kept
        for i in range(times):
            for j in range(steps):
                state = self._advanced(state, (i * steps + j) * dt, dt, half)
            found = torch.fft.irfft2(state, s=(self.n, self.n))
            if not bool(torch.isfinite(found).all()):
                raise NotFinite(f"the flow left the range of numbers before time {(i + 1) * interval:g}")
            yield found

    def _advanced(self, w: Tensor, time: float, dt: float, half: Tensor) -> Tensor:
        """Return the coefficients of the vorticity one step later; ``half`` is what viscosity leaves in half a step."""
        damped = half * w
        k1 = half * self._rate(w, time)
        k2 = self._rate(damped + dt / 2 * k1, time + dt / 2)
        k3 = self._rate(damped + dt / 2 * k2, time + dt / 2)
        k4 = self._rate(half * (damped + dt * k3), time + dt)
        return half * (damped + dt / 6 * (k1 + 2 * (k2 + k3))) + dt / 6 * k4

    def _rate(self, w: Tensor, time: float) -> Tensor:
        """Return what advection and forcing change the coefficients by, in a unit of time."""
        stream = w * self.inverse
        parts = torch.stack((self.ky * stream, -self.kx * stream, self.kx * w, self.ky * w))
        u, v, w_x, w_y = torch.fft.irfft2(1j * parts, s=(self.n, self.n))
        rate = -torch.fft.rfft2(u * w_x + v * w_y) * self.kept
        if callable(self.forcing):
            return rate + torch.fft.rfft2(self.forcing(time)) * self.kept
        return rate if self.forcing is None else rate + self.forcing * self.kept
