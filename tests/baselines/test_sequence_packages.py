"""Nyström attention and H-Transformer-1D compute what their packages compute; what their docstrings say of it holds."""

import pytest
import torch

from attn_bench.plugin import OptionError, Problem, Unsupported
from baselines.htransformer.hierarchy import AnyLengthHierarchical, visible
from baselines.htransformer.plugin import HTransformer
from baselines.nystrom.landmarks import AnyLengthNystrom, landmarks_used
from baselines.nystrom.plugin import Nystrom
from baselines.transformer.softmax_attention import attend


@pytest.mark.parametrize("n", [64, 256])
def test_nystrom_is_the_packages(n):
    from nystrom_attention import NystromAttention

    module = AnyLengthNystrom(32, dim=16, heads=2, dim_head=8)
    original = NystromAttention(16, heads=2, dim_head=8, num_landmarks=32)
    original.load_state_dict(module.attention.state_dict())
    x = torch.randn(2, n, 16)
    assert torch.equal(module(x), original(x))


@pytest.mark.parametrize("n", [1, 2, 7, 63, 64, 65, 300, 1849])
@pytest.mark.parametrize("most", [1, 16, 64])
def test_no_stretch_of_a_landmark_is_only_padding(n, most):
    used = landmarks_used(n, most)
    assert 1 <= used <= min(n, most)
    stretch = -(-n // used)
    assert 0 <= used * stretch - n < stretch


def test_nystrom_with_a_landmark_a_token_is_softmax_attention():
    """With a landmark a token, and iterations enough, it is softmax attention."""
    module = AnyLengthNystrom(61, dim=8, heads=2, dim_head=4, pinv_iterations=30, residual=False).double()
    x = torch.randn(2, 61, 8, dtype=torch.float64)
    q, k, v = (t.unflatten(-1, (2, 4)) for t in module.attention.to_qkv(x).chunk(3, -1))
    expected = module.attention.to_out(attend(q, k, v).flatten(2))
    torch.testing.assert_close(module(x), expected, rtol=1e-6, atol=1e-6)


def test_values_of_padding_have_no_weight_in_nystrom_attention():
    """61 tokens in 31 landmarks need one of padding; a convolution of the values would see it, so there is none."""
    module = AnyLengthNystrom(31, dim=8, heads=2, dim_head=4, residual=False)
    assert 61 % landmarks_used(61, 31)
    x = torch.randn(2, 61, 8)
    module(x)
    mask = torch.ones(2, 61, dtype=torch.bool)
    _, (rows, inverse, columns) = module.attention(x, mask=mask, return_attn_matrices=True)
    assert (rows @ inverse @ columns)[..., -61:, :-61].abs().max() < 1e-4


def attended(module: AnyLengthHierarchical, n: int) -> torch.Tensor:
    """Return which tokens' values are in the output of which token, (N, N)."""
    module.attention.to_qkv.weight.data[:16] = 0  # outputs depend only on values
    x = torch.randn(1, n, 8, requires_grad=True)
    y = module(x)
    rows = [torch.autograd.grad(y[0, i].sum(), x, retain_graph=True)[0] for i in range(n)]
    return torch.cat(rows).abs().sum(-1) > 0


@pytest.mark.parametrize("n", [8, 31, 50])
@pytest.mark.parametrize("block_size", [2, 16])
@pytest.mark.parametrize("causal", [False, True])
def test_htransformer_says_how_much_a_layer_connects(n, block_size, causal):
    module = AnyLengthHierarchical(n, block_size, causal, dim=8, heads=2, dim_head=4)
    found = attended(module, n)
    assert not (causal and found.triu(1).any())
    pairs = n * (n + 1) / 2 if causal else n * n
    assert found.sum().item() / pairs == pytest.approx(visible(module), abs=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_htransformer_is_the_packages(causal):
    from h_transformer_1d.h_transformer_1d import CausalHAttention1D, HAttention1D

    module = AnyLengthHierarchical(128, 16, causal, dim=16, heads=2, dim_head=8)
    settings = {"heads": 2, "dim_head": 8, "block_size": 16}
    original = CausalHAttention1D(16, max_seq_len=4096, **settings) if causal else HAttention1D(16, **settings)
    original.load_state_dict(module.attention.state_dict())
    x = torch.randn(2, 128, 16)
    assert torch.equal(module(x), original(x))


def test_a_causal_htransformer_refuses_longer_texts():
    module = HTransformer().make(Problem("causal-text", 9, 7, (100,)), dim=8, heads=2, depth=1)
    assert module(torch.randint(9, (1, 4096))).shape == (1, 4096, 7)
    with pytest.raises(Unsupported, match="at most 4096 tokens, not 4097"):
        module(torch.randint(9, (1, 4097)))


@pytest.mark.slow
@pytest.mark.parametrize("model", [HTransformer, Nystrom])
def test_they_run_in_bfloat16_and_compiled(model):
    module = model().make(Problem("field", 1, 1, (6, 7)), dim=8, heads=2, depth=1).eval()
    x = torch.randn(2, 1, 6, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).isfinite().all()
    torch.testing.assert_close(torch.compile(module, backend="eager", dynamic=False)(x), module(x))


@pytest.mark.parametrize(
    ("model", "options"),
    [(HTransformer, {"block_size": 12}), (Nystrom, {"kernel_size": 4}), (Nystrom, {"landmarks": 0})],
)
def test_bad_values_are_option_errors(model, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        model.options(**options)
