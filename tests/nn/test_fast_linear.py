"""Linear maps under autocast, with and without a processor that multiplies bf16."""

import pytest
import torch
from torch import nn

from attn_bench.nn import fast_linear
from attn_bench.nn.fast_linear import Linear


def results(linear, x_BNC, dtype=torch.bfloat16):
    x = x_BNC.clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        y = linear(x)
    return y, *torch.autograd.grad(y, [x, linear.weight, linear.bias], torch.ones_like(y))


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return Linear(24, 40)


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float32])
def test_without_instructions_it_computes_in_float32_and_rounds(given, linear, monkeypatch):
    monkeypatch.setattr(fast_linear, "HAS_BF16", False)
    x = torch.randn(2, 7, 24).to(given)
    wide = x.float().requires_grad_()
    want = nn.functional.linear(wide, linear.weight, linear.bias)
    d_x, *d_weights = torch.autograd.grad(want, [wide, linear.weight, linear.bias], torch.ones_like(want))
    got = results(linear, x)
    assert [a.dtype for a in got] == [torch.bfloat16, given, torch.float32, torch.float32]
    for a, b in zip(got, [want.bfloat16(), d_x.to(given), *d_weights], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if a.dtype == torch.float32 else 2**-8, atol=1e-5)


def test_inside_a_network_they_are_not_rounded(monkeypatch):
    monkeypatch.setattr(fast_linear, "HAS_BF16", False)
    torch.manual_seed(0)
    network = nn.Sequential(Linear(24, 40, inner=True), nn.GELU(), Linear(40, 8))
    x = torch.randn(2, 7, 24)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, y = network[0](x), network(x)
    assert torch.equal(hidden, network[0](x))
    assert torch.equal(y, network(x).bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_otherwise_it_is_that_of_torch(dtype, linear, monkeypatch):
    monkeypatch.setattr(fast_linear, "HAS_BF16", dtype == torch.bfloat16)
    torchs = nn.Linear(24, 40)
    torchs.load_state_dict(linear.state_dict())
    x = torch.randn(2, 7, 24)
    for a, b in zip(results(linear, x, dtype), results(torchs, x, dtype), strict=True):
        assert torch.equal(a, b)


def test_weights_in_bf16_stay_so(linear, monkeypatch):
    monkeypatch.setattr(fast_linear, "HAS_BF16", False)
    got = results(linear.bfloat16(), torch.randn(2, 7, 24))
    assert got[2].dtype == got[3].dtype == torch.bfloat16
