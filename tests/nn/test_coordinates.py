"""Positions of points."""

from __future__ import annotations

import math

import pytest
import torch

from attn_bench.nn.coordinates import sinusoids
from attn_bench.plugin import Problem
from attn_bench.plugins.registry import MODELS


@pytest.mark.parametrize(("grid", "dim"), [((3, 5), 8), ((4, 2), 10), ((7,), 6), ((2, 2), 3)])
def test_sinusoids_equal_their_definition(grid, dim):
    waves = sinusoids(grid, dim, torch.zeros(1, dtype=torch.float64))
    assert waves.shape == (*grid, dim)
    assert waves.dtype == torch.float64
    count = dim // (2 * len(grid))
    for point in torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid)).tolist():
        angles = [[i * 10_000 ** -(k / max(count - 1, 1)) for k in range(count)] for i in point]
        each = [f(angle) for axis in angles for f in (math.sin, math.cos) for angle in axis]
        want = torch.tensor([*each, *[0.0] * (dim - len(each))], dtype=torch.float64)
        torch.testing.assert_close(waves[tuple(point)], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "has"), [("image", True), ("mask", True), ("field", False)])
def test_tokens_have_sinusoids_where_classes_are_told(kind, has):
    module = MODELS.entry("full").load().make(Problem(kind, 1, 2, (8, 8)), dim=8, heads=2, depth=1)
    assert getattr(module, "features", module).positions == has
