"""On bf16 the compiled code computes in float32 and rounds what it stores; under autocast MANO trains through it."""

import copy
import math
import os
import platform

import pytest
import torch
from torch.nn import functional as F

from attn_bench.plugin import Problem
from mano import MultipoleAttention
from mano.plugin import MANOModel
from mano.tiled import cpp

# X_l and R_l of all levels are rounded, as are the gradients by them, each time by a relative 1.7e-3 (root mean
# square). A gate's gradient is one sum, in which much cancels.
LIMITS = {"output": 4e-3, "gates": 3e-2}
OTHERS = 8e-3
LAYERS = [
    {},
    {"window_size": 5},
    {"stride": 1},
    pytest.param({"window_size": 3, "rate": 3, "heads": 3, "head_dim": 5}, marks=pytest.mark.slow),
    pytest.param({"window_size": 4, "stride": 2, "level_weights": "learned"}, marks=pytest.mark.slow),
    pytest.param({"window_size": 8, "level_weights": "learned"}, marks=pytest.mark.slow),
    pytest.param({"window_size": 3, "stride": 2, "rate": 3}, marks=pytest.mark.slow),
]
STRIDES = pytest.mark.parametrize("stride", [2, 1])


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def layer(**options):
    torch.manual_seed(0)
    attention = MultipoleAttention(32, **options)
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return attention


def found(attention, x_BHWC, seed_BHWC):
    """The output, the gradient by the input and by each parameter that has one."""
    x = x_BHWC.detach().clone().requires_grad_()
    y = attention(x)
    used = dict(attention.named_parameters())
    gradients = torch.autograd.grad(y, [x, *used.values()], seed_BHWC.to(y.dtype), allow_unused=True)
    named = dict(zip(("input", *used), gradients, strict=True))
    return {"output": y.detach()} | {name: g for name, g in named.items() if g is not None}


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_equals_the_equations_but_for_rounding(options, compiled):
    attention = layer(**options)
    wide = copy.deepcopy(attention).double()
    wide.backend = "reference"
    for grid, dtype in (((13, 18), torch.bfloat16), ((37, 70), torch.bfloat16), ((1, 9), torch.float32)):
        x, seed = torch.randn(2, 3, *grid, 32).bfloat16()
        want = found(wide, x.double(), seed)
        with bf16():
            got = found(attention, x.to(dtype), seed)
        assert compiled == ["forward", "backward"]
        compiled.clear()
        assert got.keys() == want.keys()
        for name, a in got.items():
            assert a.dtype == {"output": torch.bfloat16, "input": dtype}.get(name, torch.float32), name
            assert (a - want[name]).norm() <= LIMITS.get(name, OTHERS) * want[name].norm(), name


@pytest.mark.parametrize("options", LAYERS[:1], ids=str)
def test_weights_in_bf16(options, compiled):
    attention = layer(**options).bfloat16()
    wide = copy.deepcopy(attention).double()
    wide.backend = "reference"
    x, seed = torch.randn(2, 2, 13, 18, 32).bfloat16()
    got, want = found(attention, x, seed), found(wide, x.double(), seed)
    assert compiled == ["forward", "backward"]
    for name, a in got.items():
        assert a.dtype == torch.bfloat16, name
        assert (a - want[name]).norm() <= LIMITS.get(name, OTHERS) * want[name].norm(), name


@STRIDES
def test_results_are_rounded_to_the_nearest(stride, compiled):
    bits = [0x3F80_8000, 0x3F81_8000, 0x3F80_7FFF, 0x3F80_8001, 0xBF80_8000, 0x7F7F_FFFF, 0x7F7F_7FFF, 1 << 20]
    bias = torch.tensor([*bits, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFFFF_FFFF], dtype=torch.uint32)
    bias = torch.cat([bias.view(torch.float32), torch.randn(20)])
    attention = MultipoleAttention(32, stride=stride, levels=1)
    with torch.no_grad():
        attention.to_out.weight.zero_()
        attention.to_out.bias.copy_(bias)
        with bf16():
            got = attention(torch.randn(1, 3, 5, 32))
    assert compiled == ["forward"]
    torch.testing.assert_close(got, bias.bfloat16().expand_as(got), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (5, 5), (2, 1)])
def test_nothing_is_hidden(window, stride, compiled):
    attention = layer(window_size=window, stride=stride)
    x, seed = torch.randn(2, 3, 8, 8, 32)
    x[1, -1, -1, 5] = math.nan
    with bf16():
        got = found(attention, x, seed)
    for name in ("output", "input"):
        assert got[name][[0, 2]].isfinite().all()
        assert got[name][1].isnan().all()


@STRIDES
def test_any_layout_and_no_samples(stride, compiled):
    attention = layer(stride=stride)
    x, seed = torch.randn(2, 2, 32, 6, 7).bfloat16().permute(0, 1, 3, 4, 2)
    with bf16():
        got, want = found(attention, x, seed), found(attention, x.contiguous(), seed.contiguous())
        none = found(attention, x[:0], seed[:0])
    assert all(torch.equal(a, want[name]) for name, a in got.items())
    assert compiled == ["forward", "backward"] * 3
    assert none["output"].shape == none["input"].shape == x[:0].shape
    assert not none["to_qkv.weight"].any()


@STRIDES
def test_threads_share_the_work(stride, compiled):
    attention = layer(stride=stride)
    x, seed = torch.randn(2, 2, 20, 19, 32)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            with bf16():
                results.append(found(attention, x, seed))
    finally:
        torch.set_num_threads(threads)
    for name, a in results[0].items():
        torch.testing.assert_close(results[1][name], a, rtol=1e-4, atol=1e-3)
    assert torch.equal(results[0]["output"], results[1]["output"])


@pytest.mark.parametrize("option", ["-mno-avx512f", pytest.param("-mno-avx", marks=pytest.mark.slow)])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of x86-64")
def test_narrower_registers(option, compiled, monkeypatch):
    attention = layer()
    x, seed = torch.randn(2, 2, 9, 14, 32)
    with bf16():
        want = found(attention, x, seed)
        cpp.library.cache_clear()
        monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} {option}")
        got = found(attention, x, seed)
    cpp.library.cache_clear()
    for name, a in got.items():
        assert (a - want[name]).norm() <= 1e-3 * want[name].norm(), name


@pytest.mark.parametrize("stride", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_training_under_autocast(stride, compiled):
    torch.manual_seed(0)
    model = MANOModel().make(Problem("field", 1, 1, (16, 16)), dim=32, depth=2, stride=stride)
    x = torch.randn(4, 1, 16, 16)
    y = F.avg_pool2d(x, 3, 1, 1)

    def losses(module, precision):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        for _ in range(12):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                predicted = module(x)
            loss = F.mse_loss(predicted.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    want = torch.tensor(list(losses(copy.deepcopy(model), "float32")))
    compiled.clear()
    got = torch.tensor(list(losses(model, "bf16")))
    assert set(compiled) == {"forward", "backward"}
    torch.testing.assert_close(got, want, rtol=0.03, atol=0)
    assert got[-1] < 0.8 * got[0]


@pytest.mark.slow
@STRIDES
def test_inside_torch_compile(stride, compiled):
    attention = layer(stride=stride)
    x, seed = torch.randn(2, 2, 8, 6, 32)
    with bf16():
        want = found(attention, x, seed)
        got = found(torch.compile(attention, dynamic=False), x, seed)
    assert compiled == ["forward", "backward"] * 2
    for name, a in got.items():
        torch.testing.assert_close(a, want[name.removeprefix("_orig_mod.")], rtol=1e-2, atol=1e-3)
