"""The solver against a manufactured solution, against a direct solver, and against itself in other batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from attn_bench.tasks.darcy.gaussian_field import GaussianField
from attn_bench.tasks.darcy.solver import NotConverged, solve
from attn_bench.tasks.darcy.sparse_matrix import assemble


def direct(a, forcing=1.0):
    matrix, right, inner = assemble(a, forcing)
    u = np.zeros_like(a)
    u[inner] = scipy.sparse.linalg.spsolve(matrix, right)
    return u


def draw(n, count, high=12.0, low=3.0, alpha=2.0, tau=3.0):
    field = GaussianField(alpha, tau, n).sample(5, "train", range(count))
    return torch.where(field >= 0, high, low).double()


@pytest.mark.parametrize("n", [65, 129])
@pytest.mark.parametrize(("high", "low", "alpha", "tau"), [(12.0, 3.0, 2.0, 3.0), (1.0, 1 / 18.6, 3.0, 10.0)])
def test_equals_a_direct_solver(n, high, low, alpha, tau):
    a = draw(n, 2, high, low, alpha, tau)
    found = solve(a, 2.5).u
    for k in range(2):
        expected = direct(a[k].numpy(), 2.5)
        assert np.abs(found[k].numpy() - expected).max() <= 1e-9 * np.abs(expected).max()


def test_is_of_second_order():
    """u = sin(pi x) sin(2 pi y) with a = 2 + sin(x + y): the error falls with the square of the spacing."""
    errors, sizes = [], [17, 33, 65, 129, 257]
    for n in sizes:
        x, y = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64),) * 2, indexing="ij")
        u = torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)
        u_x = math.pi * torch.cos(math.pi * x) * torch.sin(2 * math.pi * y)
        u_y = 2 * math.pi * torch.sin(math.pi * x) * torch.cos(2 * math.pi * y)
        a, slope = 2 + torch.sin(x + y), torch.cos(x + y)
        forcing = 5 * math.pi**2 * a * u - slope * (u_x + u_y)
        errors.append(float((solve(a[None], forcing).u[0] - u).abs().max()))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(1.9 <= order <= 2.1 for order in orders[1:]), orders


def test_iterations_depend_on_the_contrast_and_not_on_the_grid():
    low = [int(solve(draw(n, 4)).iterations.max()) for n in (33, 65, 129)]
    high = int(solve(draw(65, 4, 1.0, 1 / 18.6)).iterations.max())
    assert max(low) - min(low) <= 3
    assert max(low) <= 30 < high <= 80


def test_a_sample_does_not_depend_on_its_batch():
    a = torch.cat([draw(33, 3), torch.full((1, 33, 33), 7.0, dtype=torch.float64)])
    together = solve(a)
    for k in range(4):
        alone = solve(a[k : k + 1])
        assert alone.iterations[0] == together.iterations[k]
        torch.testing.assert_close(alone.u[0], together.u[k], rtol=1e-9, atol=0)


def test_boundary_is_zero_and_inside_is_positive():
    u = solve(draw(33, 2)).u
    for edge in (u[:, 0], u[:, -1], u[:, :, 0], u[:, :, -1]):
        assert not edge.any()
    assert (u[:, 1:-1, 1:-1] > 0).all()


def test_says_when_it_does_not_converge():
    with pytest.raises(NotConverged, match=r"after 3 iterations, but 1.0e-10 is required.*contrast is 4"):
        solve(draw(33, 1), max_iterations=3)


@pytest.mark.parametrize(
    "a",
    [torch.ones(5, 5), torch.ones(1, 5, 6), torch.ones(1, 2, 2), torch.zeros(1, 5, 5), torch.full((1, 5, 5), math.nan)],
)
def test_refuses_invalid_coefficients(a):
    with pytest.raises(ValueError, match="coefficients"):
        solve(a)
