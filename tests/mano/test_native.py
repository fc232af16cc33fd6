"""Compiled code computes the same as torch's operations for every layer; a missing compiler gives a warning."""

import math
import os
import platform
import stat
import warnings

import pytest
import torch

from attn_bench.nn.cpp import compiler
from mano import MultipoleAttention
from mano.tiled import cpp
from mano.tiled.layer import Sizes, Weights

KINDS = [
    {"dim": 64},
    {"dim": 48},
    {"dim": 32, "heads": 1, "double_norm": False},
    {"dim": 16, "heads": 3, "head_dim": 5, "rate": 3},
    {"dim": 16, "window_size": 3, "level_weights": "learned"},
    {"dim": 80, "window_size": 4, "rate": 4},
    {"dim": 16, "window_size": 1},
    {"dim": 32, "window_size": 8},
    {"dim": 64, "stride": 1},
    {"dim": 16, "window_size": 4, "stride": 2, "level_weights": "learned"},
    pytest.param(
        {"dim": 16, "heads": 3, "head_dim": 5, "rate": 3, "window_size": 3, "stride": 2}, marks=pytest.mark.slow
    ),
    pytest.param({"dim": 32, "double_norm": False, "window_size": 8, "stride": 3}, marks=pytest.mark.slow),
    pytest.param({"dim": 16, "window_size": 8, "stride": 1, "levels": 2}, marks=pytest.mark.slow),
]
# Side and stride of windows with few cells, with many, and of those that overlap.
WINDOWS = [(2, 2), (5, 5), (2, 1)]
# The last one is several blocks of cells, along both axes, where windows overlap.
GRIDS = [(16, 16), (13, 18), (1, 9), (3, 1), (1, 1), (37, 70)]


def found(attention, x_BHWC, seed_BHWC):
    """The output and every gradient."""
    x = x_BHWC.clone().requires_grad_()
    y = attention(x)
    used = [p for p in attention.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(y, [x, *used], seed_BHWC, allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_equals_the_operations_of_torch(options, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(**options)
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.3)
    for grid in GRIDS:
        x, seed = torch.randn(2, 3, *grid, options["dim"])
        got = found(attention, x, seed)
        assert compiled == ["forward", "backward"]
        compiled.clear()
        attention.backend = "torch"
        want = found(attention, x, seed)
        attention.backend = "auto"
        assert compiled == []
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize(
    ("window", "options"),
    [
        (5, {"heads": 3, "head_dim": 5}),
        pytest.param(6, {"heads": 2, "rate": 3}, marks=pytest.mark.slow),
        pytest.param(7, {"heads": 1, "head_dim": 17, "double_norm": False}, marks=pytest.mark.slow),
        pytest.param(8, {"heads": 4, "level_weights": "sum"}, marks=pytest.mark.slow),
    ],
)
def test_wide_windows_equal_the_equations(window, options, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, window_size=window, **{"level_weights": "learned"} | options).double()
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.4)
    threads = torch.get_num_threads()
    for grid in GRIDS:
        for batch in (1, 3):
            x, seed = torch.randn(2, batch, *grid, 16, dtype=torch.float64)
            attention.backend = "reference"
            want = found(attention, x, seed)
            attention.backend = "cpp"
            try:
                for n in (1, 2):
                    torch.set_num_threads(n)
                    torch.testing.assert_close(found(attention, x, seed), want, rtol=1e-9, atol=1e-9)
            finally:
                torch.set_num_threads(threads)
    assert compiled == ["forward", "backward"] * len(GRIDS) * 4


@pytest.mark.parametrize("stride", [2, 1])
def test_equals_the_operations_of_torch_in_double_precision(stride, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(24, heads=3, level_weights="learned", stride=stride).double()
    x, seed = torch.randn(2, 3, 9, 14, 24, dtype=torch.float64)
    got = found(attention, x, seed)
    attention.backend = "torch"
    for a, b in zip(got, found(attention, x, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("window", "stride"), [*(pytest.param(n, n, marks=pytest.mark.slow) for n in (2, 5)), (3, 3), (2, 1)]
)
def test_large_scores_do_not_overflow(window, stride, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, window_size=window, stride=stride, levels=1)
    with torch.no_grad():
        attention.to_qkv.weight *= 1e4
    x = torch.randn(2, 7, 7, 16)
    got = found(attention, x, torch.randn_like(x))
    assert all(a.isfinite().all() for a in got)
    wide = attention.double()(x.double())
    assert (got[0] - wide).norm() < 1e-3 * wide.norm()


@pytest.mark.parametrize(("window", "stride"), [(2, 1), (4, 2)])
def test_a_window_of_small_scores_beside_one_of_large_scores(window, stride, compiled):
    # The exponentials of the one vanish relative to the largest score of the other.
    torch.manual_seed(0)
    attention = MultipoleAttention(8, heads=1, window_size=window, stride=stride, levels=1).double()
    with torch.no_grad():
        attention.to_qkv.weight[:16] *= 30
    x, seed = torch.randn(2, 2, 9, 11, 8, dtype=torch.float64)
    got = found(attention, x, seed)
    assert compiled == ["forward", "backward"]
    attention.backend = "torch"
    torch.testing.assert_close(got, found(attention, x, seed), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_a_probability_too_small_for_float32_is_zero(window, stride, compiled):
    attention = MultipoleAttention(16, window_size=window, stride=stride, levels=1)
    cells = torch.tensor([[0.0, 0, 1, -1], [1, -1, 0, 0]]).repeat(1, 4)
    with torch.no_grad():
        attention.to_qkv.weight.zero_()
        attention.to_qkv.weight[:32] = 10 * torch.eye(16).repeat(2, 1)  # scores: 200 of a cell with itself, else 0
        attention.to_qkv.weight[32, 0] = 1e37  # the value of the first cell is 0
        attention.to_out.weight.copy_(torch.eye(16))
        attention.to_out.bias.zero_()
        first, second = attention(cells[None, None])[0, 0, :, 0]
    assert first == 0
    assert second > 1e37


@pytest.mark.parametrize(("window", "stride"), WINDOWS)
@pytest.mark.parametrize("grid", [(8, 8), (3, 2)])
def test_nothing_is_hidden(grid, window, stride, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, window_size=window, stride=stride)
    x, seed = torch.randn(2, 3, *grid, 16)
    x[1, -1, -1, 5] = math.nan
    y, gradient, *_ = found(attention, x, seed)
    for result in (y, gradient):
        assert result[[0, 2]].isfinite().all()
        assert result[1].isnan().all()


@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_threads_share_the_work(window, stride, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, window_size=window, stride=stride)
    x, seed = torch.randn(2, 2, 20, 20, 16)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3, 64):
            torch.set_num_threads(n)
            results.append(found(attention, x, seed))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other[0], results[0][0])
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [2, 1])
def test_input_of_any_layout(stride, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, stride=stride)
    x = torch.randn(2, 16, 8, 6)
    assert torch.equal(attention(x.permute(0, 2, 3, 1)), attention(x.permute(0, 2, 3, 1).contiguous()))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 24},
        {"window_size": 9, "stride": 9},
        {"window_size": 9, "stride": 3},
        {"dtype": torch.float16},
        {"channels": 528},
        {"heads": 9, "head_dim": 64},
    ],
    ids=str,
)
def test_unsupported_layers_return_none(options):
    usual = {
        "dtype": torch.float32,
        "channels": 64,
        "heads": 4,
        "head_dim": 16,
        "window_size": 2,
        "stride": 2,
        "rate": 2,
        "norms": 2,
    }
    assert cpp.LayerSizes(**usual).served()
    layer = cpp.LayerSizes(**usual | options)
    assert not layer.served()
    assert cpp.library(layer) is None


def changed(stride=2, **parts):
    attention = MultipoleAttention(16, stride=stride, double_norm=False)
    for name, part in parts.items():
        setattr(attention, name, part)
    return attention


@pytest.mark.parametrize(
    ("attention", "grid"),
    [
        (changed(to_out=torch.nn.Linear(12, 16)), (4, 4)),
        (changed(heads=3), (4, 4)),
        (changed(norm=torch.nn.LayerNorm(16, bias=False)), (4, 4)),
        (changed(down=torch.nn.Conv2d(16, 16, 2, 2, bias=False).double()), (4, 4)),
        (changed(), (8, 0)),
        (changed(stride=1, to_out=torch.nn.Linear(12, 16)), (4, 4)),
        (changed(stride=1), (8, 0)),
    ],
    ids=["shape", "heads", "norms", "dtype", "width", "overlapping, shape", "overlapping, width"],
)
def test_what_does_not_fit_is_refused(attention, grid, compiled):
    with pytest.raises((RuntimeError, ValueError)):
        attention(torch.randn(1, *grid, 16, requires_grad=True)).sum().backward()
    assert not compiled


def test_another_device_is_not_read_as_memory(compiled):
    attention = MultipoleAttention(16)
    norms = [p for norm in (attention.norm, attention.inner_norm) for p in norm.parameters()]
    projections = attention.to_qkv.weight, attention.to_out.weight, attention.to_out.bias
    weights = Weights(*projections, attention.down.weight, attention.up.weight, torch.ones(1), norms)
    x, sizes = torch.randn(1, 4, 4, 16), Sizes(4, 2, 2, 1e-5)
    assert cpp.library_for(x, weights, sizes) is not None
    assert cpp.library_for(x, weights._replace(qkv=weights.qkv.to("meta")), sizes) is None


@pytest.mark.parametrize("stride", [2, 1])
def test_no_samples(stride, compiled):
    x = torch.randn(0, 8, 6, 16, requires_grad=True)
    y = MultipoleAttention(16, stride=stride)(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert compiled == ["forward", "backward"]


def test_sums_over_many_tokens_are_exact(compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16)
    x, seed = torch.randn(2, 4, 96, 96, 16)
    got = found(attention, x, seed)
    want = found(attention.double(), x.double(), seed.double())
    for a, b in zip(got, want, strict=True):
        # One running sum in float32 would be ten times as far off.
        assert (a - b).norm() < 4e-6 * b.norm()


@pytest.mark.parametrize("stride", [2, 1])
def test_gradients_of_any_layout(stride, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, stride=stride)
    x, seed = torch.randn(2, 6, 8, 16), torch.randn(2, 16, 6, 8).permute(0, 2, 3, 1)
    for a, b in zip(found(attention, x, seed), found(attention, x, seed.contiguous()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("option", ["-mno-avx512f", pytest.param("-mno-avx", marks=pytest.mark.slow)])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of x86-64")
@pytest.mark.parametrize(
    ("window", "stride"), [(2, 2), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((5, 5), (7, 7), (2, 1)))]
)
def test_narrower_registers(window, stride, option, fresh, compiled, monkeypatch):
    torch.manual_seed(0)
    attention = MultipoleAttention(48, window_size=window, stride=stride)
    x, seed = torch.randn(2, 2, 9, 14, 48)
    want = found(attention, x, seed)
    cpp.library.cache_clear()
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} {option}")
    for a, b in zip(found(attention, x, seed), want, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    assert len(list(fresh.iterdir())) == 2  # each compiler's under a name of its own


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing built yet."""
    caches = cpp.library, compiler.warn_without_compiler, compiler._own_folder
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "kernels"
    for cache in caches:
        cache.cache_clear()


def test_built_once(fresh):
    x = torch.randn(1, 4, 4, 16)
    y = MultipoleAttention(16)(x)
    assert y.isfinite().all()
    (built,) = fresh.iterdir()
    assert built.suffix == ".so"
    cpp.library.cache_clear()
    before = built.stat().st_mtime_ns
    MultipoleAttention(16)(x)
    assert built.stat().st_mtime_ns == before
    MultipoleAttention(16, heads=2)(x)
    assert len(list(fresh.iterdir())) == 2


@pytest.mark.parametrize(("cxx", "reason"), [("/no/such/c++", "No such file"), ("false", "exit 1")])
def test_without_a_compiler(cxx, reason, fresh, monkeypatch):
    torch.manual_seed(0)
    attentions = MultipoleAttention(16), MultipoleAttention(16, stride=1)
    x, seed = torch.randn(2, 1, 5, 4, 16)
    want = [found(attention, x, seed) for attention in attentions]
    cpp.library.cache_clear()
    monkeypatch.setenv("CXX", cxx)
    with pytest.warns(UserWarning, match=reason) as said:
        got = [found(attention, x, seed) for attention in attentions]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    (line,) = said
    assert "\n" not in str(line.message)
    assert "CXX" in str(line.message)


def test_the_compilers_message_is_shown(fresh, monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\necho 'warning: odd' >&2\necho 'fatal error: no such option' >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    with pytest.warns(UserWarning, match=r"\(fatal error: no such option\)"):
        MultipoleAttention(16)(torch.randn(1, 4, 4, 16))


def test_a_cache_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "file"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultipoleAttention(16)(torch.randn(1, 4, 4, 16))
    assert os.listdir(compiler._own_folder().name)
