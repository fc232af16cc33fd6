"""On a periodic grid a model that is told so treats every point alike: a shifted input gives the shifted output."""

from __future__ import annotations

import pytest
import torch

from attn_bench.plugin import Mixer, Problem
from attn_bench.plugins.registry import MODELS
from baselines.transformer.flex_window import attend_flex
from baselines.transformer.sliding_window import WindowAttention, attend_around, attend_window
from mano.attention import MultipoleAttention

BOTH = (True, True)


def attention(periodic, **options):
    torch.manual_seed(0)
    return MultipoleAttention(8, heads=2, periodic=periodic, **options).double().eval()


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize(
    ("options", "grid", "step"),
    [
        ({"window_size": 3, "stride": 1, "levels": 1}, (7, 9), 1),
        ({"window_size": 4, "stride": 2, "levels": 1}, (8, 12), 2),
        ({"window_size": 3, "stride": 1, "levels": 2}, (8, 12), 2),
        ({"window_size": 2, "stride": 1, "levels": 3, "down_sampling": "average"}, (8, 16), 4),
    ],
)
def test_windows_of_mano_go_on_at_the_opposite_edge(options, grid, step, backend):
    x = torch.randn(2, *grid, 8).double()
    told, untold = attention(BOTH, **options, backend=backend), attention((), **options, backend=backend)
    shifted = x.roll((step, 2 * step), (1, 2))
    torch.testing.assert_close(told(shifted), told(x).roll((step, 2 * step), (1, 2)))
    assert not torch.allclose(untold(shifted), untold(x).roll((step, 2 * step), (1, 2)))
    # Along one axis only.
    rows = attention((True, False), **options, backend=backend)
    torch.testing.assert_close(rows(x.roll(step, 1)), rows(x).roll(step, 1))
    assert not torch.allclose(rows(x.roll(step, 2)), rows(x).roll(step, 2))
    inside = options["window_size"] * 2 ** options["levels"]
    if min(grid) > 2 * inside:  # far from the edges nothing changes
        torch.testing.assert_close(
            told(x)[:, inside:-inside, inside:-inside], untold(x)[:, inside:-inside, inside:-inside]
        )


@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"stride": 1, "level_weights": "learned"}])
def test_backends_of_mano_agree_on_a_periodic_grid_of_any_size_and_have_gradients(options):
    x = torch.randn(2, 7, 10, 8).double().requires_grad_()
    found = []
    for backend in ("auto", "torch", "reference"):
        module = attention(BOTH, window_size=2, **options, backend=backend)
        y = module(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        found.append((y, gradient))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_where_windows_tile_a_grid_mano_is_as_before():
    x = torch.randn(2, 16, 32, 8).double()
    assert torch.equal(attention(BOTH, window_size=2)(x), attention((), window_size=2)(x))


def built(name, periodic, grid=(16, 16), **options):
    torch.manual_seed(0)
    problem = Problem("field", 2, 1, grid, periodic=periodic)
    model = MODELS.load(name)
    return model, problem, model.make(problem, **options).eval()


@pytest.mark.parametrize("name", ["fno", "tfno", "uno"])
def test_operators_in_the_frequency_domain_pad_along_other_axes_only(name):
    for periodic, grid in (((), [20, 20]), ((True, False), [16, 20]), (BOTH, None)):
        model, problem, module = built(name, periodic, domain_padding=0.125)
        assert model.effective(module, problem).get("padded_grid") == grid
        assert module(torch.randn(1, 2, 16, 16)).shape == (1, 1, 16, 16)


@torch.no_grad()
def test_a_padded_fno_is_periodic_where_it_is_told():
    x = torch.randn(1, 2, 16, 16)
    settings = {"domain_padding": 0.25}
    for periodic, axis, same in (((True, False), 2, True), ((True, False), 3, False), ((), 2, False)):
        # neuraloperator appends coordinates, which a shift changes: a constant input in their place would not be FNO.
        _, _, module = built("fno", periodic, **settings)
        module.positional_embedding = None
        module.lifting.fcs[0] = torch.nn.Conv1d(2, module.lifting.fcs[0].out_channels, 1)
        y = module(x)
        assert torch.allclose(module(x.roll(4, axis)), y.roll(4, axis), atol=1e-5) == same, (periodic, axis)


@torch.no_grad()
def test_shifted_windows_of_swinv2_join_opposite_edges_where_they_are_told():
    settings = {"coordinates": False, "patch_size": 1, "window_size": 4, "depth": 2}
    x = torch.randn(1, 2, 16, 16)
    for periodic in ((), (True, False), (False, True), BOTH):
        model, problem, module = built("swinv2", periodic, **settings)
        for axis in (0, 1):
            shifted = module(x.roll(4, 2 + axis))
            same = torch.allclose(shifted, module(x).roll(4, 2 + axis), atol=1e-5)
            assert same == bool(periodic and periodic[axis]), (periodic, axis)
        assert ("shifts_without_mask" in model.effective(module, problem)) == bool(periodic)
        # On another grid and back.
        before = module(x)
        module(torch.randn(1, 2, 24, 8))
        assert torch.equal(module(x), before)


def around_a_circle(n, reach, wraps):
    """Which of n points are at most ``reach`` apart, the short way round if the axis is a circle."""
    apart = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    return (torch.minimum(apart, n - apart) if wraps else apart) <= reach


@pytest.mark.parametrize("attend", [attend_window, attend_flex])
@pytest.mark.parametrize(
    ("grid", "periodic", "reach"),
    [
        ((40,), (True,), 3),
        ((9, 12), BOTH, 2),
        ((7, 20), (True, False), 3),  # as wide as the window
        ((6, 5), BOTH, 3),  # narrower: every key once
        ((4, 9), (False, True), 2),
    ],
)
def test_windows_go_on_at_the_other_end(grid, periodic, reach, attend):
    q, k, v = torch.randn(3, 2, *grid, 2, 16)
    near = torch.ones(1, 1, dtype=torch.bool)
    for n, wraps in zip(grid, periodic):
        near = (near[:, None, :, None] & around_a_circle(n, reach, wraps)[None, :, None, :]).flatten(2).flatten(0, 1)
    queries, keys, values = (t.flatten(1, -3).transpose(1, 2) for t in (q, k, v))
    scores = queries @ keys.transpose(-1, -2) / 16**0.5
    expected = scores.masked_fill(~near, -torch.inf).softmax(-1) @ values
    found = attend_around(q, k, v, attend, reach, reach, periodic)
    torch.testing.assert_close(found, expected.transpose(1, 2).reshape(q.shape), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_model_of_windows_says_that_they_wrap():
    x = torch.randn(1, 2, 16, 16)
    for periodic in ((), (True, False), BOTH):
        model, problem, module = built("window", periodic, depth=1, window_size=5)
        assert model.effective(module, problem).get("wraps", False) == bool(periodic)
        (mixer,) = [part for part in module.modules() if isinstance(part, WindowAttention)]
        tokens = torch.randn(1, 16, 16, 48)
        for axis in (0, 1):
            same = torch.allclose(mixer(tokens.roll(3, 1 + axis)), mixer(tokens).roll(3, 1 + axis), atol=1e-5)
            assert same == bool(periodic and periodic[axis]), (periodic, axis)
        assert module(x).shape == (1, 1, 16, 16)


def test_mixers_are_told_of_axes_that_whole_patches_cover():
    class Any(Mixer):
        name = "any"

        def mixer(self, tokens, options):
            raise NotImplementedError

    problem = Problem("field", 1, 1, (16, 18), periodic=BOTH)
    assert Any().tokens(problem, Any.options()).periodic == BOTH
    assert Any().tokens(problem, Any.options(patch_size=4)).periodic == (True, False)
    assert Any().tokens(Problem("field", 1, 1, (16, 18)), Any.options()).periodic == ()
