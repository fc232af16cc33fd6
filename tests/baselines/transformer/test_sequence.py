"""Sliding window and linear attention against their definitions, and the transformer on text."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from attn_bench.nn.transformer import TextTransformer
from attn_bench.plugin import Mixer, OptionError, Problem
from attn_bench.plugins.registry import MODELS
from baselines.mean.plugin import Mean
from baselines.transformer.linear_attention import CHUNK, attend_linear
from baselines.transformer.sliding_window import WindowAttention, attend_window
from baselines.transformer.softmax_attention import attend
from baselines.transformer.window import SlidingWindow


def windowed(q, k, v, before, after):
    """One query at a time, over the keys of its window."""
    n, rows = q.shape[1], []
    for i in range(n):
        near = slice(max(i - before, 0), min(i + after + 1, n))
        scores = torch.einsum("bhd,bmhd->bhm", q[:, i], k[:, near]) / math.sqrt(q.shape[-1])
        rows.append(torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), v[:, near]))
    return torch.stack(rows, 1)


def linear(q, k, v, causal):
    """The weights phi(q_i) . phi(k_j) as a matrix."""
    phi_q, phi_k = (torch.where(t > 0, t + 1, t.exp()) for t in (q, k))
    weights = torch.einsum("bnhd,bmhd->bhnm", phi_q, phi_k)
    if causal:
        weights = weights.tril()
    return torch.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdim=True), v)


def assert_equal_with_gradients(ours, theirs, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3, 2, n, 2, 4, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, n, 2, 4, dtype=torch.float64, generator=generator)
    results = []
    for attention in (ours, theirs):
        x = inputs.clone().requires_grad_()
        y = attention(*x)
        (y * weights).sum().backward()
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


@given(n=st.integers(1, 90), before=st.integers(0, 12), after=st.integers(0, 12))
def test_window_is_attention_to_the_keys_of_the_window(n, before, after):
    assert_equal_with_gradients(
        lambda q, k, v: attend_window(q, k, v, (before,), (after,)), lambda q, k, v: windowed(q, k, v, before, after), n
    )


def windowed_on_a_grid(q, k, v, reach):
    """One query at a time, over the keys of its square."""
    _, height, width = q.shape[:3]
    out = torch.empty_like(q)
    for i in range(height):
        for j in range(width):
            near = slice(max(i - reach, 0), i + reach + 1), slice(max(j - reach, 0), j + reach + 1)
            keys, values = (t[:, *near].flatten(1, 2) for t in (k, v))
            scores = torch.einsum("bhd,bmhd->bhm", q[:, i, j], keys) / math.sqrt(q.shape[-1])
            out[:, i, j] = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
    return out


@given(grid=st.tuples(st.integers(1, 14), st.integers(1, 14)), reach=st.integers(0, 5))
def test_window_on_a_grid_is_attention_to_the_keys_of_the_square(grid, reach):
    q, k, v = torch.randn(3, 2, *grid, 2, 3, dtype=torch.float64, requires_grad=True).unbind()
    weights, results = torch.randn_like(q), []
    for y in (attend_window(q, k, v, (reach, reach), (reach, reach)), windowed_on_a_grid(q, k, v, reach)):
        results.append((y, *torch.autograd.grad((y * weights).sum(), [q, k, v], retain_graph=True)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("window_size", [1, 2, 5, 8])
def test_a_point_sees_its_square_and_nothing_else(window_size):
    module = WindowAttention(4, 1, window_size, causal=False).double()
    reach = window_size // 2
    for i, j in [(0, 0), (7, 10), (12, 4)]:
        x = torch.randn(1, 13, 11, 4, dtype=torch.float64, requires_grad=True)
        module(x)[0, i, j].sum().backward()
        seen = [(a, b) for a in range(13) for b in range(11) if max(abs(a - i), abs(b - j)) <= reach]
        assert list(map(tuple, x.grad[0].abs().sum(2).nonzero().tolist())) == seen


def test_the_default_window_depends_on_the_axes():
    for kind, grid, size in (("causal-text", (32,), 128), ("field", (8, 8), 7)):
        problem = Problem(kind, 3, 3, grid)
        module = SlidingWindow().make(problem, dim=8, depth=1)
        assert SlidingWindow().effective(module, problem) == {"window_size": size}


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_as_long_as_the_text_is_full_attention(causal):
    q, k, v = torch.randn(3, 2, 50, 2, 4, dtype=torch.float64)
    ours = WindowAttention(8, 2, 100, causal).attend(q, k, v)
    torch.testing.assert_close(ours, attend(q, k, v, causal=causal))


@pytest.mark.parametrize(("causal", "seen"), [(True, range(15, 21)), (False, range(17, 24))])
def test_a_token_sees_its_window_and_nothing_else(causal, seen):
    module = WindowAttention(4, 1, 6, causal).double()
    x = torch.randn(1, 40, 4, dtype=torch.float64, requires_grad=True)
    module(x)[0, 20].sum().backward()
    assert x.grad[0].abs().sum(1).nonzero().flatten().tolist() == list(seen)


@given(n=st.integers(1, 3 * CHUNK + 5), causal=st.booleans())
def test_linear_attention_is_its_matrix(n, causal):
    assert_equal_with_gradients(
        lambda q, k, v: attend_linear(q, k, v, causal), lambda q, k, v: linear(q, k, v, causal), n
    )


def test_linear_attention_survives_features_that_underflow():
    q, k, v = torch.randn(3, 1, 80, 2, 4)
    for causal in (False, True):
        assert attend_linear(q - 200, k - 200, v, causal).isfinite().all()


@pytest.mark.parametrize(("causal", "seen"), [(True, [4, 5, 6, 7]), (False, [1, 2, 3, 4, 5, 6, 7])])
def test_without_a_mixer_only_neighbors_see_a_token(causal, seen):
    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    module = TextTransformer(5, 3, Mixer.Options(dim=8, depth=2), Zero, causal=causal)
    tokens = torch.zeros(1, 20, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 4] = 3
    difference = (module(tokens) - module(changed)).abs().amax((0, 2)) > 0
    assert difference.nonzero().flatten().tolist() == seen


def test_mean_on_text_is_how_often_each_target_occurs():
    targets = torch.randint(5, (70, 30))
    targets[:, ::3] = -100  # left out of the loss
    model = Mean()
    module = model.make(Problem("masked-text", 8, 7, (30,)))
    assert model.fit(module, TensorDataset(torch.zeros(70, 30, dtype=torch.long), targets))
    prediction = module(torch.randint(8, (2, 11)))
    assert prediction.shape == (2, 11, 7)
    counts = torch.tensor([(targets == token).sum() for token in range(7)])
    torch.testing.assert_close(prediction[1, 10].exp(), (counts + 1) / (counts.sum() + 7))
    assert list(module.parameters()) == []


@pytest.mark.parametrize("name", ["full", "linear", "window"])
def test_one_transformer_serves_every_kind(name):
    x = torch.randn(2, 3, 6, 5)
    for kind in ("field", "mask", "image"):
        problem = Problem(kind, 3, 4, (6, 5))
        assert MODELS.load(name).make(problem, dim=16, depth=1)(x).shape == problem.output_shape(2)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(OptionError, match="window_size must be >= 1"):
        SlidingWindow().make(Problem("causal-text", 8, 8, (32,)), window_size=0)
