"""The C++ of Fast Multipole Attention computes the same as torch's operations; without a compiler these are used."""

import itertools
import os
import platform

import pytest
import torch

from attn_bench.nn.cpp import compiler
from attn_bench.plugin import Problem
from baselines.fma import cpp_blocks, cpu_blocks
from baselines.fma.attention import FastMultipoleAttention
from baselines.fma.blocks import attend_blocks
from baselines.fma.plugin import FMA
from baselines.fma.tensor_blocks import NOTHING

# Samples, blocks, queries of a block, heads, channels of a head, rows, slots of a list, diagonal.
SIZES = [
    (2, 5, 4, 3, 16, 40, 30, -1),
    (1, 7, 16, 4, 16, 200, 144, -1),
    (2, 3, 70, 2, 16, 300, 190, -1),  # more queries than are handled together, and some are left
    (2, 6, 8, 2, 16, 64, 40, 16),  # slots after the block itself are read by all its queries
    (1, 4, 80, 2, 16, 400, 250, 80),
    (3, 2, 1, 1, 64, 9, 5, -1),
]


def given(sizes, dtype):
    """Queries, keys, values, lists of which the first is empty, biases of which some hide a row, and the diagonal."""
    torch.manual_seed(0)
    b, m, i, h, e, t, s, diagonal = sizes
    q, k, v = (torch.randn(b, n, h, e, dtype=dtype) for n in (m * i, t, t))
    index = torch.randint(-1, t, (m, s), dtype=torch.int32)
    index[0] = -1
    bias = torch.randn(t, dtype=dtype)
    bias[::7] = -torch.inf
    return q, k, v, index, bias, diagonal


@pytest.fixture(params=[1, 5])  # also more than there are samples times heads
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 3e-6)], ids=str)
def test_equals_the_operations_of_torch(sizes, dtype, limit, threads):
    *tensors, diagonal = given(sizes, dtype)
    library = cpp_blocks.library_for(tensors[0])
    results = []
    for backend in (library, cpu_blocks):
        out, lse = backend.forward(*tensors, diagonal)
        torch.manual_seed(1)
        seeds = torch.randn_like(out), torch.randn_like(lse)
        gradients = (backend.backward(d, dlse, tensors, diagonal, out, lse) for d, dlse in [seeds, (seeds[0], None)])
        results.append([out, lse, *itertools.chain(*gradients)])
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        assert (got - want).norm() <= limit * want.norm()


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "query_downsampling": True}], ids=str)
def test_the_module_computes_the_same(options, monkeypatch):
    torch.manual_seed(0)
    module = FastMultipoleAttention(64, (512,), 32, heads=4, **options)
    x, seed = torch.randn(2, 2, 512, 64)
    x.requires_grad_()
    results = []
    for library in (cpp_blocks.library_for, lambda q: None):
        monkeypatch.setattr(cpp_blocks, "library_for", library)
        y = module(x)
        results.append([y, *torch.autograd.grad(y, [x, *module.parameters()], seed)])
    for got, want in zip(*results, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of x86-64")
def test_narrower_registers(fresh, monkeypatch):
    *tensors, diagonal = given(SIZES[4], torch.float32)
    want = cpu_blocks.forward(*tensors, diagonal)
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} -mno-avx512f")
    library = cpp_blocks.library_for(tensors[0])
    torch.testing.assert_close(library.forward(*tensors, diagonal), want)
    d, dlse = torch.randn_like(want[0]), torch.randn_like(want[1])
    got = library.backward(d, dlse, tensors, diagonal, *want)
    torch.testing.assert_close(got, cpu_blocks.backward(d, dlse, tensors, diagonal, *want))


def test_any_layout_and_bf16():
    q, k, v, index, bias, _ = given(SIZES[0], torch.float32)
    want = attend_blocks(q, k, v, index, bias, -1)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert not k.is_contiguous()
    torch.testing.assert_close(attend_blocks(q, k, v, index.t().contiguous().t(), bias, -1), want)
    out, lse = attend_blocks(*(x.bfloat16() for x in (q, k, v)), index, bias, -1)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert (out - want[0]).norm() <= 1e-2 * want[0].norm()


def test_rows_that_a_block_does_not_read_change_nothing():
    q, k, v, index, bias, _ = given(SIZES[1], torch.float32)
    index.clamp_(max=len(bias) - 2)
    want, _ = attend_blocks(q, k, v, index, bias, -1)
    k[:, -1], v[:, -1] = torch.nan, torch.inf
    index[3, 5] = len(bias) - 1
    bias[-1] = 0
    got, lse = attend_blocks(q, k, v, index, bias, -1)
    size = q.shape[1] // len(index)
    others = torch.arange(q.shape[1]) // size != 3
    assert torch.equal(got[:, others], want[:, others])
    assert got[:, ~others].isnan().all()
    assert (lse[:, :size] == NOTHING).all()


@pytest.mark.parametrize("what", ["heads", "rows", "blocks", "bias", "list", "device"])
def test_what_does_not_fit_is_refused(what):
    q, k, v, index, bias, _ = given(SIZES[0], torch.float32)
    match what:
        case "heads":
            k = k[:, :, 1:]
        case "rows":
            v = v[:, 1:]
        case "blocks":
            q = q[:, 1:]
        case "bias":
            bias = bias[1:]
        case "list":
            index[2, 3] = len(bias)
        case "device":
            k = k.to("meta")
    said = {"list": "row 40, but there are 40", "device": "must be on the CPU"}.get(what, "do not match")
    with pytest.raises(ValueError, match=said):
        cpp_blocks.library_for(q).forward(q, k, v, index, bias, -1)


@pytest.mark.parametrize("what", ["do", "out", "lse"])
def test_gradients_that_do_not_fit_are_refused(what):
    *tensors, diagonal = given(SIZES[0], torch.float32)
    library = cpp_blocks.library_for(tensors[0])
    out, lse = library.forward(*tensors, diagonal)
    passed = {"do": torch.ones_like(out), "out": out, "lse": lse}
    passed[what] = passed[what][:, 1:]
    with pytest.raises(ValueError, match="do not match"):
        library.backward(passed["do"], None, tensors, diagonal, passed["out"], passed["lse"])


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing built yet."""
    caches = cpp_blocks.library, compiler.warn_without_compiler
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    yield
    for cache in caches:
        cache.cache_clear()


def test_without_a_compiler_torch_computes_and_the_record_says_so(fresh, monkeypatch):
    before = os.environ.get("CXX", "")
    monkeypatch.setenv("CXX", "/no/such/c++")
    problem = Problem("field", 1, 1, (16, 16))
    model = FMA().make(problem, dim=64, heads=4, depth=1)
    x = torch.randn(2, 1, 16, 16)
    with pytest.warns(UserWarning, match="Fast Multipole Attention falls back to torch") as said:
        y = model(x)
    assert len(said) == 1
    assert FMA().effective(model, problem) == {"levels": 1, "backend": "torch"}
    cpp_blocks.library.cache_clear()
    monkeypatch.setenv("CXX", before)
    assert FMA().effective(model, problem) == {"levels": 1, "backend": "cpp"}
    torch.testing.assert_close(model(x), y)


@pytest.mark.parametrize("channels", [8, 24, 144])
def test_heads_that_the_cpp_does_not_serve(channels):
    assert cpp_blocks.library(torch.float32, channels) is None
