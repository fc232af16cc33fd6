"""Chunks hold every token once, and keeping values for the backward pass does not change the result."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mano.attend import attend, average
from mano.tiled import chunks
from mano.tiled.sampling import add_up_sampled, up_sample
from mano.tiled.tiled_multipole import tiled_multipole


@given(
    levels=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 300)), min_size=1, max_size=5),
    limit=st.integers(1, 2000),
)
def test_every_row_is_in_one_chunk_coarse_levels_first(levels, limit):
    rows, tokens = zip(*levels, strict=True)
    found = chunks.cut(rows, tokens, limit)
    parts = [(level, row) for chunk in found for level, part in chunk for row in range(part.start, part.stop)]
    assert parts == [(level, row) for level in reversed(range(len(rows))) for row in range(rows[level])]
    total = sum(r * t for r, t in levels)
    for chunk in found:
        taken = [(part.stop - part.start) * tokens[level] for level, part in chunk]
        assert sum(taken) < -(-total // -(-total // limit)) + tokens[chunk[-1][0]]


@pytest.mark.parametrize("limit", [1, 50, 10_000])
@pytest.mark.parametrize("columns", [10, 128])
def test_scattering_undoes_gathering(limit, columns):
    torch.manual_seed(0)
    levels = [torch.randn(2, 7, columns, 3), torch.randn(2, 4, columns // 2, 3)]
    complete = [chunks.complete(x, 2) for x in levels]
    results = [torch.full_like(x, torch.nan) for x in complete]
    tokens, outputs = chunks.windows(complete, 2), chunks.windows(results, 2)
    windows = 0
    for chunk, place in chunks.window_chunks(tokens, limit):
        x_TC = chunks.gather(tokens, chunk, 0.5)
        assert place.start == windows
        windows = place.stop
        added = x_TC.unflatten(0, (4, -1))[:, place.stop - place.start :]
        assert (added == 0.5).all()
        assert len(x_TC) // 4 % chunks.ALIASED
        chunks.scatter(x_TC, outputs, chunk)
    assert windows == 2 * (4 * columns // 2 + 2 * -(-columns // 4))
    for x, y in zip(levels, chunks.crop(results, levels), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("rate", [2, 3])
@pytest.mark.parametrize("grid", [(12, 18), (11, 17)])
def test_up_sampling_is_added(rate, grid):
    torch.manual_seed(0)
    coarse = torch.randn(2, *(-(-n // rate) for n in grid), 4)
    fine, weight = torch.randn(2, *grid, 5), torch.randn(4, 5, rate, rate)
    want = fine + up_sample(coarse, weight, fine.shape[1:3])
    add_up_sampled(fine, coarse, weight)
    torch.testing.assert_close(fine, want)


def test_average_is_of_the_values():
    torch.manual_seed(0)
    qkv = torch.randn(3, 2, 3, 4, 5)
    o, p = attend(qkv)
    assert torch.equal(average(p, qkv[2]), o)
    torch.testing.assert_close(o, torch.einsum("apqm,aeqm->aepm", p, qkv[2]))


def operands(grid, window, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = {"x": (2, *grid, 6), "qkv": (12, 6), "out": (6, 4), "bias": (6,), "down": (6, 6, 2, 2), "up": (6, 6, 2, 2)}
    x, *weights = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes.values())
    norms = [torch.randn(6, dtype=dtype, requires_grad=True) for _ in range(2)]
    gates = torch.tensor([0.7, 1.3], dtype=dtype, requires_grad=True)
    return x, [*weights, gates, *norms], 2, window, window, 1e-5


@pytest.mark.parametrize("grid", [(8, 8), (7, 10)])
@pytest.mark.parametrize("window", [2, 4])
def test_kept_probabilities_change_no_gradient(grid, window):
    found = []
    for keep in (True, False):
        args = operands(grid, window)
        output = tiled_multipole(*args, keep, True)
        assert (output[-1].numel() > 0) == keep
        output[0].square().sum().backward()
        found.append([output[0], args[0].grad, *(w.grad for w in args[1])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("keep", [True, False])
def test_shapes_are_known_without_computing(keep):
    torch.library.opcheck(
        tiled_multipole, (*operands((7, 8), 2), keep, True), test_utils=("test_schema", "test_faketensor")
    )
