"""Compiled code computes what torch's operations do, for every kind of layer; without a compiler there is a warning."""

import math
import os
import stat
import warnings

import pytest
import torch

from mano import MultipoleAttention, compiler, native

KINDS = [
    {"dim": 64},
    {"dim": 48},
    {"dim": 32, "heads": 1, "double_norm": False},
    {"dim": 16, "heads": 3, "head_dim": 5, "rate": 3},
    {"dim": 16, "window_size": 3, "level_weights": "learned"},
    {"dim": 80, "window_size": 4, "rate": 4},
    {"dim": 16, "window_size": 1},
]
GRIDS = [(16, 16), (13, 18), (1, 9), (3, 1), (1, 1)]


def found(attention, x_BHWC, seed_BHWC):
    """The output and every gradient."""
    x = x_BHWC.clone().requires_grad_()
    y = attention(x)
    used = [p for p in attention.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(y, [x, *used], seed_BHWC, allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_equals_the_operations_of_torch(options, compiled, monkeypatch):
    torch.manual_seed(0)
    attention = MultipoleAttention(**options)
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.3)
    for grid in GRIDS:
        x, seed = torch.randn(2, 3, *grid, options["dim"])
        got = found(attention, x, seed)
        with monkeypatch.context() as patch:
            patch.setattr(native, "code", lambda kind: None)
            want = found(attention, x, seed)
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()


def test_equals_the_operations_of_torch_in_double_precision(compiled, monkeypatch):
    torch.manual_seed(0)
    attention = MultipoleAttention(24, heads=3, level_weights="learned").double()
    x, seed = torch.randn(2, 3, 9, 14, 24, dtype=torch.float64)
    got = found(attention, x, seed)
    monkeypatch.setattr(native, "code", lambda kind: None)
    for a, b in zip(got, found(attention, x, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [2, 3])
def test_large_scores_do_not_overflow(window, compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, window_size=window, levels=1)
    with torch.no_grad():
        attention.to_qkv.weight *= 1e4
    x = torch.randn(2, 7, 7, 16)
    got = found(attention, x, torch.randn_like(x))
    assert all(a.isfinite().all() for a in got)
    wide = attention.double()(x.double())
    assert (got[0] - wide).norm() < 1e-3 * wide.norm()


def test_nothing_is_hidden(compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16)
    x = torch.randn(2, 8, 8, 16)
    x[1, 3, 3, 5] = math.nan
    y = attention(x)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


def test_threads_share_the_work(compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16)
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


def test_input_of_any_layout(compiled):
    torch.manual_seed(0)
    attention = MultipoleAttention(16)
    x = torch.randn(2, 16, 8, 6)
    assert torch.equal(attention(x.permute(0, 2, 3, 1)), attention(x.permute(0, 2, 3, 1).contiguous()))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 24},
        {"window": 5},
        {"dtype": torch.bfloat16},
        {"channels": 528},
        {"heads": 9, "head_dim": 64},
    ],
    ids=str,
)
def test_what_is_not_served(options):
    usual = {"dtype": torch.float32, "channels": 64, "heads": 4, "head_dim": 16, "window": 2, "rate": 2, "norms": 2}
    assert native.Kind(**usual).served()
    kind = native.Kind(**usual | options)
    assert not kind.served()
    assert native.code(kind) is None


def test_weights_that_do_not_fit_are_refused():
    attention = MultipoleAttention(16)
    attention.to_out = torch.nn.Linear(12, 16)
    with pytest.raises(RuntimeError):
        attention(torch.randn(1, 4, 4, 16))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing built yet."""
    native.code.cache_clear()
    native._warn.cache_clear()
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "kernels"
    native.code.cache_clear()
    native._warn.cache_clear()


def test_built_once(fresh):
    x = torch.randn(1, 4, 4, 16)
    y = MultipoleAttention(16)(x)
    assert y.isfinite().all()
    (built,) = fresh.iterdir()
    assert built.suffix == ".so"
    native.code.cache_clear()
    before = built.stat().st_mtime_ns
    MultipoleAttention(16)(x)
    assert built.stat().st_mtime_ns == before
    MultipoleAttention(16, heads=2)(x)
    assert len(list(fresh.iterdir())) == 2


@pytest.mark.parametrize(("cxx", "reason"), [("/no/such/c++", "No such file"), ("false", "status 1|exit 1")])
def test_without_a_compiler(cxx, reason, fresh, monkeypatch):
    torch.manual_seed(0)
    attention, other = MultipoleAttention(16), MultipoleAttention(32)
    x = torch.randn(1, 4, 4, 16)
    want = attention(x)
    native.code.cache_clear()
    monkeypatch.setenv("CXX", cxx)
    with pytest.warns(UserWarning, match=reason) as said:
        found = attention(x), other(torch.randn(1, 4, 4, 32))
    torch.testing.assert_close(found[0], want)
    (line,) = said
    assert "\n" not in str(line.message)
    assert "CXX" in str(line.message)


def test_the_compilers_own_words_are_shown(fresh, monkeypatch, tmp_path):
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
