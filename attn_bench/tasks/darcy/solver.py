"""Solves -div(a grad u) = f on the unit square, u = 0 on its boundary, for many coefficients at once.

Second-order finite differences: a and u live on the n x n nodes (both ends included), and the coefficient of the face
between two nodes is the mean of theirs. The linear systems are solved by conjugate gradients, preconditioned by the
same operator with a = 1, which sine transforms invert. The condition number of the preconditioned system is at most
max(a) / min(a) at any resolution, so the number of iterations depends only on the contrast: about 25 for a contrast of
4.

The preconditioner works in single precision, which is twice as fast, as it only has to approximate the inverse.
Residual and solution are in double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class NotConverged(ArithmeticError):
    """Raised if the residual is still above the tolerance after the maximum number of iterations."""


@dataclass(frozen=True)
class Solution:
    """Result of :func:`solve`.

    Attributes:
        u: solutions at the nodes, shape (B, n, n), double precision.
        iterations: iterations each sample took, shape (B,).
    """

    u: Tensor
    iterations: Tensor


def solve(
    a: Tensor, forcing: float | Tensor = 1.0, *, tolerance: float = 1e-10, max_iterations: int = 1000
) -> Solution:
    """Solve for a batch of coefficients on their device.

    Args:
        a: coefficients at the nodes, all positive, shape (B, n, n) with n >= 3.
        forcing: right-hand side f: a number, or a tensor that broadcasts to (B, n, n).
        tolerance: the Euclidean norm of the residual at the end, relative to that of the right-hand side.
        max_iterations: maximum number of iterations.

    Raises:
        ValueError: ``a`` has another shape, or is not positive and finite everywhere.
        NotConverged: the tolerance is not reached.
    """
    if a.ndim != 3 or a.shape[1] != a.shape[2] or a.shape[1] < 3:
        raise ValueError(f"coefficients must have shape (B, n, n) with n >= 3 (given: {tuple(a.shape)})")
    a = a.double()
    if not bool(((a > 0) & a.isfinite()).all()):
        raise ValueError("coefficients must be positive and finite everywhere")
    operator = _Operator(a)
    n = a.shape[1]
    precondition = _InverseLaplacian(n, a.device)

    r = torch.zeros_like(a)
    f = torch.as_tensor(forcing, dtype=a.dtype, device=a.device).expand_as(a)
    r[:, 1:-1, 1:-1] = f[:, 1:-1, 1:-1] / (n - 1) ** 2
    u, p, q = torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(a)
    goal = tolerance * _norm(r)
    iterations = torch.zeros(len(a), dtype=torch.int64, device=a.device)
    rz = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for iteration in range(max_iterations + 1):
        active = _norm(r) > goal
        if not bool(active.any()):
            return Solution(u, iterations)
        if iteration == max_iterations:
            break
        iterations += active
        z = precondition(r)
        rz, previous = _dot(r[:, :-1, :-1], z), rz
        beta = torch.where(active, rz / previous, 0.0) if iteration else torch.zeros_like(rz)
        p.mul_(_column(beta))
        p[:, :-1, :-1] += z
        operator(p, out=q)
        # A converged sample takes steps of length zero until the others converge.
        step = _column(torch.where(active, rz / _dot(p, q), 0.0))
        u.addcmul_(p, step)
        r.addcmul_(q, step, value=-1)
    worst = float((_norm(r) / goal).nan_to_num(posinf=math.inf).max()) * tolerance
    raise NotConverged(
        f"relative residual {worst:.1e} after {max_iterations} iterations, but {tolerance:.1e} is required; "
        f"the coefficient's contrast is {float(a.max() / a.min()):.3g}"
    )


class _Operator:
    """The discrete -h^2 div(a grad .) at inner nodes."""

    def __init__(self, a: Tensor) -> None:
        down, right = (a[:, 1:] + a[:, :-1]) / 2, (a[:, :, 1:] + a[:, :, :-1]) / 2
        self.up, self.down = down[:, :-1, 1:-1].contiguous(), down[:, 1:, 1:-1].contiguous()
        self.left, self.right = right[:, 1:-1, :-1].contiguous(), right[:, 1:-1, 1:].contiguous()
        self.centre = self.up + self.down + self.left + self.right

    def __call__(self, p: Tensor, out: Tensor) -> None:
        """Write the operator applied to ``p`` (zero on the boundary) to the inner nodes of ``out``."""
        inner = self.centre * p[:, 1:-1, 1:-1]
        inner.addcmul_(self.up, p[:, :-2, 1:-1], value=-1)
        inner.addcmul_(self.down, p[:, 2:, 1:-1], value=-1)
        inner.addcmul_(self.left, p[:, 1:-1, :-2], value=-1)
        inner.addcmul_(self.right, p[:, 1:-1, 2:], value=-1)
        out[:, 1:-1, 1:-1] = inner


class _InverseLaplacian:
    """Inverse of the operator for a = 1, by sine transforms in single precision."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.intervals = n - 1
        k = torch.arange(self.intervals, dtype=torch.float64, device=device)
        eigenvalue = 2 - 2 * torch.cos(math.pi * k / self.intervals)
        scale = (2 / self.intervals) ** 2 / (eigenvalue[:, None] + eigenvalue)
        scale[0], scale[:, 0] = 0.0, 0.0
        self.scale = scale.float()

    def __call__(self, r: Tensor) -> Tensor:
        """Map (B, n, n), zero on the boundary, to (B, n - 1, n - 1): without the last row and column."""
        r = self._sine(self._sine(r[:, :-1, :-1].float(), 2), 1)
        return self._sine(self._sine(r * self.scale, 2), 1)

    def _sine(self, x: Tensor, axis: int) -> Tensor:
        # The transform of a sequence that starts with 0 and is padded with as many zeros: its imaginary part is the sum
        # over sin(pi j k / intervals), up to sign, and starts with 0 again. Two transforms cancel the sign.
        return torch.fft.rfft(x, 2 * self.intervals, axis).narrow(axis, 0, self.intervals).imag


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum((1, 2))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2))


def _column(x: Tensor) -> Tensor:
    return x[:, None, None]
