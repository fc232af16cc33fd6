"""The solver against exact and manufactured solutions, with its measured order, and against finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from attn_bench.tasks.helmholtz.cavity import TERMS, Drive, Interior, NotConverged, cosines, solve
from attn_bench.tasks.helmholtz.cavity_samples import CENTRE, HALF_WIDTH, bump

X = torch.linspace(0, 1, 33, dtype=torch.float64)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(torch.linalg.norm(found - exact) / torch.linalg.norm(exact))


def manufactured(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return w = exp(cos(2 pi x) cos(pi y)), a k^2 that varies, and -Laplace w - k^2 w, at the points (x_i, x_j)."""
    p, q = torch.cos(2 * math.pi * x)[:, None], torch.cos(math.pi * x)
    p_x, q_y = -2 * math.pi * torch.sin(2 * math.pi * x)[:, None], -math.pi * torch.sin(math.pi * x)
    w = torch.exp(p * q)
    laplacian = w * ((p_x * q).square() - 4 * math.pi**2 * p * q + (p * q_y).square() - math.pi**2 * p * q)
    squared = 400 * (1 + 0.1 * torch.cos(math.pi * x)[:, None] * torch.cos(3 * math.pi * x))
    return w, squared, -laplacian - squared * w


def test_a_manufactured_solution_converges_faster_than_any_order():
    errors = []
    for modes in (12, 16, 20):
        interior = Interior(modes, 9)
        _, squared, f = manufactured(interior.points)
        found = interior.solve(squared[None], interior.project(f[None]), tolerance=1e-13)[0]
        waves = cosines(X, modes)
        errors.append(relative(waves @ found @ waves.T, manufactured(X)[0]))
    assert errors[0] < 1e-2
    assert errors[1] < errors[0] / 30
    assert errors[2] < errors[1] / 30


def constant(k: float) -> torch.Tensor:
    """Return the exact solution of a constant wavenumber at (x_i, x_j), wave by wave along the edge."""
    m = math.pi * torch.arange(TERMS, dtype=torch.float64)
    rate = torch.sqrt((m.square() - k**2).to(torch.complex128))
    y = X[:, None]
    growth = (torch.exp(rate * (y - 1)) + torch.exp(-rate * (y + 1))) / (rate * (1 - torch.exp(-2 * rate)))
    return cosines(X, TERMS) @ (bump(TERMS)[:, None] * growth.real.T)


@pytest.mark.parametrize(("mean", "order"), [(1.0, 5.5), (0.8, 3.5)])
def test_the_driven_edge_converges_with_the_order_of_the_series(mean, order):
    """With the mean wavenumber known exactly V is all that the series leaves out, otherwise a part of U as well."""
    k, drive = 20.0, Drive(bump(TERMS), mean * 20.0**2)
    errors = []
    for modes in (24, 48, 96):
        interior = Interior(modes, 10)
        squared = torch.full((1, len(interior.points), len(interior.points)), k**2, dtype=torch.float64)
        waves = cosines(X, modes)
        errors.append(relative(drive.at(X) + waves @ solve(squared, interior, drive)[0] @ waves.T, constant(k)))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.6)
    assert errors[-1] < 1e-5


def differences(n: int, squared) -> np.ndarray:
    """Return the solution on (n + 1) x (n + 1) nodes by finite differences of second order and a direct solver."""
    x = np.arange(n + 1) / n
    one = scipy.sparse.lil_matrix(scipy.sparse.diags([-np.ones(n), 2 * np.ones(n + 1), -np.ones(n)], [-1, 0, 1]))
    one[0, 1] = one[n, n - 1] = -2
    eye = scipy.sparse.identity(n + 1)
    operator = n**2 * (scipy.sparse.kron(one, eye) + scipy.sparse.kron(eye, one))
    right = np.zeros((n + 1, n + 1))
    # The mean of the derivative over the cell of each node.
    edges = np.clip((np.abs(x - CENTRE)[:, None] - HALF_WIDTH) * n + [0.5], 0, 1)[:, 0]
    right[:, -1] = 2 * n * (1 - edges)
    matrix = operator - scipy.sparse.diags(squared(torch.from_numpy(x)).numpy().ravel())
    return scipy.sparse.linalg.spsolve(matrix.tocsc(), right.ravel()).reshape(n + 1, n + 1)


def test_finite_differences_converge_to_it():
    def squared(x: torch.Tensor) -> torch.Tensor:
        slow, fast = torch.cos(math.pi * x), torch.cos(2 * math.pi * x)
        return 144 * (1 + 0.2 * slow[:, None] * fast - 0.1 * slow)

    interior, drive = Interior(64, 8), Drive(bump(TERMS), 144.0)
    waves = cosines(X, 64)
    found = drive.at(X) + waves @ solve(squared(interior.points)[None], interior, drive)[0] @ waves.T
    errors = [relative(torch.from_numpy(differences(n, squared)[:: n // 32, :: n // 32]), found) for n in (32, 64, 128)]
    assert errors[-1] < 1e-2
    assert [a / b for a, b in itertools.pairwise(errors)] == pytest.approx([4, 4], rel=0.25)


def test_an_iteration_that_fails_is_said():
    interior = Interior(16, 2)
    squared = 400 + 390 * torch.cos(math.pi * interior.points)[:, None] * torch.cos(math.pi * interior.points)
    with pytest.raises(NotConverged, match="after 40 iterations"):
        interior.solve(squared[None], torch.ones(1, 16, 16, dtype=torch.float64))
