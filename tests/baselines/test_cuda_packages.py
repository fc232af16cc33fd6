"""NATTEN and flash-linear-attention: what is said without CUDA, and their reference implementations on a CPU."""

from importlib.util import find_spec

import pytest
import torch

from attn_bench.plugin import Problem, Tokens
from baselines.fla.plugin import FLA
from baselines.natten import plugin as natten_plugin
from baselines.natten.plugin import Natten

TEXT = Problem("causal-text", 9, 7, (256,))


@pytest.mark.parametrize(("model", "package"), [(Natten, "natten"), (FLA, "flash-linear-attention")])
def test_a_missing_package_is_unsupported_with_the_command_that_installs_it(model, package, monkeypatch):
    import importlib

    module = importlib.import_module(model.__module__)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    reason = model().unsupported(TEXT, "cuda", model.options())
    assert reason.startswith(f"{package} is not installed")
    assert f"pip install 'attn-bench[{model.name}]'" in reason
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    assert "CUDA" in model().unsupported(TEXT, "cpu", model.options())
    assert model().unsupported(TEXT, "cuda", model.options()) is None


def test_natten_says_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(natten_plugin, "find_spec", lambda name: True)

    def reason(**options):
        return Natten().unsupported(Problem("field", 1, 1, (16, 12)), "cuda", Natten.options(**options))

    assert reason(kernel_size=5, dilation=2) is None
    assert "exceeds the grid of tokens, 16 x 12" in reason(kernel_size=7, dilation=2)
    assert "multiple of 8" in reason(heads=4)


@pytest.mark.parametrize("dilation", [1, 2])
def test_natten_attends_to_the_nearest_on_a_grid(dilation):
    """Against softmax attention by hand; a window at an edge is shifted inwards."""
    pytest.importorskip("natten")
    module = Natten().mixer(Tokens((9, 8)), Natten.options(dim=16, heads=1, kernel_size=3, dilation=dilation)).eval()
    x = torch.randn(1, 9, 8, 16)
    with torch.no_grad():
        found = module(x)
        q, k, v = module.qkv(x)[0].chunk(3, -1)

        def near(i: int, n: int) -> list[int]:
            same = list(range(i % dilation, n, dilation))  # tokens of the same residue are the neighbors
            at = min(max(same.index(i) - 1, 0), len(same) - 3)
            return same[at : at + 3]

        for i in range(9):
            for j in range(8):
                rows, columns = torch.tensor(near(i, 9)), torch.tensor(near(j, 8))
                keys, values = (t[rows][:, columns].flatten(0, 1) for t in (k, v))
                expected = module.proj((keys @ q[i, j] / 4).softmax(0) @ values)
                torch.testing.assert_close(found[0, i, j], expected, rtol=1e-4, atol=1e-5)


def test_natten_on_causal_text_sees_no_later_token():
    pytest.importorskip("natten")
    module = Natten().make(Problem("causal-text", 9, 7, (64,)), dim=16, heads=1, depth=2, kernel_size=8).eval()
    tokens = torch.randint(9, (1, 64))
    changed = tokens.clone()
    changed[0, 40] = (tokens[0, 40] + 1) % 9
    with torch.no_grad():
        difference = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert difference[:40].max() == 0
    assert difference[40] > 0


needs_fla = pytest.mark.skipif(
    not (find_spec("fla") and find_spec("transformers")), reason="attn-bench[fla] is missing"
)


@needs_fla
@pytest.mark.parametrize("layer", FLA.presets)
@pytest.mark.filterwarnings("ignore")
def test_every_layer_of_fla_can_be_built_with_these_channels_and_heads(layer):
    module = FLA().make(TEXT, layer=layer, depth=1)
    assert sum(p.numel() for p in module.parameters()) > 4 * 64 * 64


@needs_fla
@pytest.mark.filterwarnings("ignore")
def test_the_naive_gated_linear_attention_of_fla_is_the_recurrence():
    """S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = q_t S_t, on a CPU."""
    from fla.ops.gla.naive import naive_recurrent_gla

    q, k, v = torch.randn(3, 1, 12, 2, 4)
    gate = -torch.rand(1, 12, 2, 4)
    found, _ = naive_recurrent_gla(q, k, v, gate)
    state = torch.zeros(2, 4, 4)
    for t in range(12):
        state = state * gate[0, t].exp()[..., None] + k[0, t][..., None] * v[0, t][:, None]
        expected = torch.einsum("hk,hkv->hv", q[0, t] / 2, state)
        torch.testing.assert_close(found[0, t], expected, rtol=1e-4, atol=1e-5)
