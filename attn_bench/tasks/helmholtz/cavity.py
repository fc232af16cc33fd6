r"""Solves the Helmholtz equation on the unit square, for many wavenumbers k(x, y) at once.

    -Laplace u - k^2 u = 0,    du/dn = g(x) on the edge y = 1,    du/dn = 0 on the other three

Finite differences and elements are of little use here: they shift the phase of a wave by an amount that grows with k^3
(pollution), and close to a resonance that decides everything. So u is a sum of three parts, all of cosines.

U has the derivative g on the edge and solves -Laplace U + s U = 0, and V solves -Laplace V + s V = (k0^2 + s) U with
zero derivatives, where s = k0^2 is the square of a mean wavenumber. Both are known: cos(pi m x) times a function of y.
What remains, -Laplace w - k^2 w = (k^2 - k0^2) U + (k^2 + s) V with zero derivatives, is smooth: even for a g that
jumps, the error of a cosine series of M x M terms falls with M^(-11/2), as long as the small part of (k^2 - k0^2) U,
which falls with M^(-7/2), is below it.

For w, equations of waves up to ``low``, which the equation does not damp, are solved directly; the others follow from a
few iterations, since there the Laplacian is much larger than variations of k^2 (a block Gauss-Seidel iteration).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Waves of k^2 that the products resolve without aliases; those above are not in smooth wavenumbers.
SMOOTH = 32
# Terms of the two known parts, which cost little.
TERMS = 8192


class NotConverged(ArithmeticError):
    """The iteration of the short waves does not converge."""


def cosines(x: Tensor, count: int) -> Tensor:
    """Return the orthonormal cosines 1, sqrt(2) cos(pi m x), ... at points, (len(x), count)."""
    waves = torch.cos(math.pi * torch.outer(x, torch.arange(count, dtype=x.dtype, device=x.device)))
    waves[:, 1:] *= math.sqrt(2)
    return waves


class Interior:
    """-Laplace w - k^2 w = f with zero normal derivatives, in cosines.

    Args:
        modes: cosines along each axis, M.
        low: waves whose vector (m, n) is not longer are solved directly.
    """

    def __init__(self, modes: int, low: int, device: str = "cpu") -> None:
        self.modes, self.low = modes, low
        count = modes + SMOOTH
        self.points = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count
        self.waves = cosines(self.points, modes)
        squared = torch.arange(modes, dtype=torch.float64, device=device).square()
        squared = squared[:, None] + squared
        self.laplacian = math.pi**2 * squared
        self.direct = squared <= low**2
        m, n = torch.nonzero(self.direct, as_tuple=True)
        self.sums = tuple(((k[:, None] - k).abs(), k[:, None] + k) for k in (m, n))
        norm = torch.where(m > 0, math.sqrt(2), 1.0).double() * torch.where(n > 0, math.sqrt(2), 1.0).double()
        self.products = norm[:, None] * norm / 4

    def project(self, values: Tensor) -> Tensor:
        """Return the coefficients of functions given at the points, (B, P, P) -> (B, M, M)."""
        return self.waves.T @ values @ self.waves / len(self.points) ** 2

    def solve(self, squared: Tensor, f: Tensor, *, tolerance: float = 1e-9, max_iterations: int = 40) -> Tensor:
        """Return the coefficients of w, (B, M, M).

        Args:
            squared: k^2 at the points, (B, P, P).
            f: coefficients of the right-hand side, (B, M, M).
            tolerance: the Euclidean norm of the residual at the end, relative to that of ``f``.

        Raises:
            NotConverged: the tolerance is not reached.
        """
        mean = squared.mean((1, 2), keepdim=True)
        varying, diagonal = squared - mean, self.laplacian - mean
        factors = torch.linalg.lu_factor(self._direct_block(squared))
        inverse = torch.where(self.direct, 0.0, 1 / diagonal)
        w = torch.zeros_like(f)
        goal = tolerance * _norm(f)
        for _ in range(max_iterations):
            residual = f - diagonal * w + self._times(varying, w)
            if bool((_norm(residual) <= goal).all()):
                return w
            step = residual * inverse
            rest = (residual + self._times(varying, step))[:, self.direct]
            step[:, self.direct] = torch.linalg.lu_solve(*factors, rest[..., None])[..., 0]
            w = w + step
        raise NotConverged(
            f"relative residual {float((_norm(residual) / goal).max()) * tolerance:.1e} after {max_iterations} "
            f"iterations, but {tolerance:.1e} is required"
        )

    def _times(self, values: Tensor, coefficients: Tensor) -> Tensor:
        return self.project(values * (self.waves @ coefficients @ self.waves.T))

    def _direct_block(self, squared: Tensor) -> Tensor:
        """Return the matrix of the equations that are solved directly, (B, D, D), from integrals of k^2 and cosines."""
        count = 2 * self.low + 1
        waves = torch.cos(math.pi * torch.outer(self.points, torch.arange(count, device=squared.device).double()))
        integrals = waves.T @ squared @ waves / len(self.points) ** 2
        potential = sum(integrals[:, p, q] for p in self.sums[0] for q in self.sums[1]) * self.products
        return torch.diag(self.laplacian[self.direct]) - potential


class Drive:
    """The two known parts, U and V, for one g.

    Args:
        g: its coefficients in orthonormal cosines, (TERMS,).
        squared: k0^2.
    """

    def __init__(self, g: Tensor, squared: float) -> None:
        self.g, self.squared = g, squared
        m = math.pi * torch.arange(len(g), dtype=g.dtype, device=g.device)
        self.rates = (m.square() + squared).sqrt()

    def coefficients(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the coefficients of U and V in cosines, (count, count) each."""
        n = torch.arange(count, dtype=self.g.dtype, device=self.g.device)
        at_edge = torch.where(n > 0, math.sqrt(2), 1.0) * (1 - 2 * (n % 2))
        both = self.rates[:count, None].square() + (math.pi * n).square()
        u = self.g[:count, None] * at_edge / both
        return u, 2 * self.squared * u / both

    def at(self, x: Tensor) -> Tensor:
        """Return U + V at the points (x_i, x_j), (len(x), len(x)).

        U has cosh(r y) / (r sinh r) behind cos(pi m x), and V -2 k0^2 times its derivative with respect to r^2.
        """
        r, y = self.rates, x[:, None]
        up, down = torch.exp(r * (y - 1)), torch.exp(-r * (y + 1))
        scale = 1 - torch.exp(-2 * r)
        cosh, sinh, coth = (up + down) / scale, (up - down) / scale, (2 - scale) / scale
        slope = (r * y * sinh - cosh * (1 + r * coth)) / (2 * r**3)
        return cosines(x, len(r)) @ (self.g * (cosh / r - 2 * self.squared * slope)).T


def solve(squared: Tensor, interior: Interior, drive: Drive) -> Tensor:
    """Return the coefficients of w, (B, M, M), for k^2 at ``interior.points``, (B, P, P); u is w and ``drive.at``.

    Raises:
        NotConverged: variations of k^2 are too large for ``interior.low``.
    """
    count = interior.modes + SMOOTH
    waves = cosines(interior.points, count)
    u, v = (waves @ each @ waves.T for each in drive.coefficients(count))
    return interior.solve(squared, interior.project((squared - drive.squared) * u + (squared + drive.squared) * v))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2))
