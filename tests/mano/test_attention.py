"""Multipole attention equals its equations, on any grid, in both its forms."""

import copy

import pytest
import torch

from mano import MultipoleAttention, reference


def module(dim=8, heads=2, seed=0, **options):
    torch.manual_seed(seed)
    attention = MultipoleAttention(dim, heads=heads, **options).double()
    for p in attention.parameters():  # biases and gates of their own, so that none can be forgotten
        torch.nn.init.normal_(p, std=0.4)
    return attention


GRIDS = [
    (7, 9),
    (1, 11),
    (1, 1),
    *(pytest.param(g, marks=pytest.mark.slow) for g in ((8, 8), (16, 8), (13, 1), (5, 2))),
]
IN_CPP = [{}, {"window_size": 3, "level_weights": "sum"}, {"level_weights": "learned", "stride": 1}]
MORE_IN_CPP = [
    {"level_weights": "sum", "double_norm": False},
    {"window_size": 4, "rate": 4},
    {"window_size": 3, "stride": 2, "head_dim": 3},
    {"window_size": 4, "stride": 2},
    {"window_size": 4, "stride": 3, "level_weights": "learned"},
    {"down_sampling": "average", "rate": 4, "stride": 1, "up_sampling": "nearest"},
]
OTHERS = [
    {"rate": 4, "stride": 1, "heads": 1},
    {"down_sampling": "average"},
    {"down_sampling": "conv-per-level", "merges": 2},
    {"up_sampling": "nearest", "level_weights": "learned"},
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        *(("torch", options) for options in (*IN_CPP, *MORE_IN_CPP, *OTHERS)),
        *(("compiled", options) for options in IN_CPP),
        *(pytest.param("compiled", options, marks=pytest.mark.slow) for options in MORE_IN_CPP),
    ],
    indirect=["form"],
    ids=str,
)
@pytest.mark.usefixtures("form")
def test_equals_the_equations(grid, options):
    fast = module(**options)
    most = len(fast.grids(grid))
    for levels in range(1, most + 1):
        fast.levels = levels
        slow = copy.deepcopy(fast)
        x = torch.randn(2, *grid, 8, dtype=torch.float64, requires_grad=True)
        x2 = x.detach().clone().requires_grad_()
        got, want = fast(x), reference.multipole(slow, x2, levels)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        seed = torch.randn_like(got)
        got.backward(seed)
        want.backward(seed)
        torch.testing.assert_close(x.grad, x2.grad, rtol=1e-9, atol=1e-9)
        for (name, p), q in zip(fast.named_parameters(), slow.parameters(), strict=True):
            own = int(name.split(".")[1]) if name.startswith("downs.") else 0
            unused = levels - 1 <= own and name.startswith(("down", "up", "gates"))
            assert (p.grad is None) == unused, name
            if not unused:
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-8, msg=name)
            p.grad = None


@pytest.mark.parametrize("backend", ["cpp", "torch", "reference"])
def test_every_backend_computes_the_same(backend, compiled):
    torch.manual_seed(0)
    x = torch.randn(2, 9, 14, 32)
    attention = MultipoleAttention(32)
    want = MultipoleAttention(32)
    want.load_state_dict(attention.state_dict())
    attention.backend, want.backend = backend, "reference"
    torch.testing.assert_close(attention(x), want(x), rtol=1e-4, atol=1e-5)
    assert (compiled != []) == (backend == "cpp")


@pytest.mark.parametrize(
    ("backend", "options"),
    [("cpp", {"window_size": 9, "stride": 3}), ("cpp", {"window_size": 9}), ("triton", {})],
    ids=str,
)
def test_a_backend_that_cannot_serve_says_why(backend, options):
    attention = MultipoleAttention(32, backend=backend, **options)
    with pytest.raises(RuntimeError, match=f"backend '{backend}' cannot serve.*use backend 'auto'"):
        attention(torch.randn(1, 8, 8, 32))
    with pytest.raises(ValueError, match="backend is 'cuda'; it must be one of auto, cpp"):
        MultipoleAttention(32, backend="cuda")
