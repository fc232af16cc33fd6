"""Exact attention against its definition."""

import math
import sys
import types

import pytest
import torch

from attn_bench.nn.multi_head import MultiHead
from attn_bench.nn.transformer import Transformer
from attn_bench.plugin import Mixer, Problem
from baselines.transformer.full import FullAttention
from baselines.transformer.softmax_attention import attend


def naive(q, k, v):
    """Softmax attention by the formula, one query at a time."""
    out = torch.empty_like(v)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for i in range(q.shape[1]):
                scores = k[b, :, h] @ q[b, i, h] / math.sqrt(q.shape[-1])
                weights = scores.exp() / scores.exp().sum()
                out[b, i, h] = weights @ v[b, :, h]
    return out


def test_attend_is_softmax_attention():
    q, k, v = torch.randn(3, 2, 15, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(attend(q, k, v), naive(q, k, v), rtol=1e-12, atol=1e-12)


def test_module_splits_heads_as_it_says():
    module = MultiHead(12, 3, attend).double()
    x = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    q, k, v = (x.flatten(1, 2) @ w.T for w in module.qkv.weight.chunk(3))
    heads = naive(*(t.unflatten(-1, (3, 4)) for t in (q, k, v))).flatten(2)
    expected = module.project(heads).unflatten(1, (3, 4))
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_attention_does_not_know_the_order_of_points():
    module = MultiHead(8, 2, attend).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    order = torch.randperm(20)
    shuffled = x.flatten(1, 2)[:, order].view_as(x)
    torch.testing.assert_close(module(shuffled).flatten(1, 2), module(x).flatten(1, 2)[:, order])


def test_transformer_leaves_only_the_mixer_open():
    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    module = Transformer(1, 2, Mixer.Options(dim=8, depth=2), Zero)
    x = torch.randn(1, 1, 5, 6)
    changed = x.clone()
    changed[..., 2, 3] += 1
    difference = (module(x) - module(changed)).abs().amax((0, 1)) > 0
    assert difference.nonzero().tolist() == [[2, 3]]  # without a mixer no point sees another


def test_defaults_are_those_of_mano():
    from attn_bench.plugins.options import options_of
    from mano.plugin import MANOModel

    ours, theirs = options_of(FullAttention), options_of(MANOModel)
    for name in ("dim", "depth", "heads", "mlp_ratio"):
        assert ours[name].default == theirs[name].default


def test_padding_the_heads_for_xformers_changes_nothing(monkeypatch):
    class Causal:
        pass

    def kernel(q, k, v, attn_bias, scale):
        assert q.shape[-1] % 8 == k.shape[-1] % 8 == v.shape[-1] % 8 == 0
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * scale
        if isinstance(attn_bias, Causal):
            scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)

    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = kernel
    ops.LowerTriangularMask = Causal
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    for dim in (8, 12):
        q, k, v = torch.randn(3, 2, 9, 2, dim, dtype=torch.float64)
        torch.testing.assert_close(attend(q, k, v, "xformers"), naive(q, k, v), rtol=1e-12, atol=1e-12)
        causal = attend(q, k, v, "auto", causal=True)
        torch.testing.assert_close(attend(q, k, v, "xformers", causal=True), causal, rtol=1e-12, atol=1e-12)


def test_xformers_agrees_with_sdpa():
    if not torch.cuda.is_available() or FullAttention().unsupported(
        Problem("field", 1, 1, (16, 16)), "cuda", FullAttention.options(backend="xformers")
    ):
        pytest.skip("xformers runs only on CUDA")
    q, k, v = torch.randn(3, 2, 64, 4, 12, device="cuda")
    for causal in (False, True):
        expected = attend(q, k, v, "auto", causal)
        torch.testing.assert_close(attend(q, k, v, "xformers", causal), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["auto", "math", "flash"])
def test_every_backend_of_sdpa_attends_by_the_formula(backend, causal):
    q, k, v = torch.randn(3, 2, 9, 2, 8, dtype=torch.float64)
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    expected = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)
    torch.testing.assert_close(attend(q, k, v, backend, causal), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "math", "flash"])
def test_the_row_names_the_kernels_that_run(backend):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        names: set[str] = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.add(str(function))
            return function(*args, **(kwargs or {}))

    model, problem = FullAttention(), Problem("field", 1, 1, (8, 8))
    module = model.make(problem, backend=backend, dim=16, depth=1)
    Seen.names = set()
    with Seen():
        module(torch.randn(1, 1, 8, 8))
    used = "flash" if any("flash" in name for name in Seen.names) else "math"
    assert model.effective(module, problem) == {"backend": used}
    assert used == backend or backend == "auto"


def test_backends_that_the_device_does_not_have_are_unsupported():
    model, problem = FullAttention(), Problem("field", 1, 1, (8, 8))
    for backend in ("memory-efficient", "cudnn", "xformers"):
        assert f"backend is {backend}" in model.unsupported(problem, "cpu", model.options(backend=backend))
    for backend in ("auto", "math", "flash", "memory-efficient", "cudnn"):
        assert model.unsupported(problem, "cuda", model.options(backend=backend)) is None
