"""The mixers of our own against slow readings of their equations, and what their equations imply."""

import pytest
import slow_mixers
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.plugin import Problem, Tokens
from attn_bench.plugins.registry import MODELS
from attn_bench.running.measure.flops import count_flops
from baselines.flare.attention import route
from baselines.galerkin.attention import attend_fourier, attend_galerkin
from baselines.linearno.attention import attend_softmax_features
from baselines.transolver.attention import PhysicsAttention, slice_tokens

SLOW = {
    "transolver": (slow_mixers.physics_attention, {"slices": 5}),
    "linearno": (slow_mixers.softmax_features, {"slices": 5}),
    "flare": (slow_mixers.routed, {"latents": 5, "kv_layers": 2}),
    "galerkin": (slow_mixers.without_softmax, {}),
    "galerkin:fourier": (slow_mixers.without_softmax, {}),
}
NAMES = sorted({label.partition(":")[0] for label in SLOW})
GRIDS = st.one_of(st.tuples(st.integers(1, 20)), st.tuples(st.integers(1, 5), st.integers(1, 5)))


def mixer(label, grid, dim, heads, dtype=torch.float64):
    """Return a mixer whose every parameter is random, so that none of them hides at zero or one."""
    name, _, preset = label.partition(":")
    model = MODELS.load(name)
    given = {**(model.presets[preset] if preset else {}), **SLOW[label][1], "dim": dim, "heads": heads}
    torch.manual_seed(0)
    module = model.mixer(Tokens(grid), model.options(**given)).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("label", SLOW)
@given(grid=GRIDS, heads=st.sampled_from([1, 2, 3]), head_dim=st.integers(1, 5), batch=st.integers(1, 3))
def test_a_mixer_is_its_equation(label, grid, heads, head_dim, batch):
    module = mixer(label, grid, heads * head_dim, heads)
    inputs = torch.randn(batch, *grid, heads * head_dim, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(inputs)
    results = []
    for compute in (module, lambda x: SLOW[label][0](module, x)):
        y = compute(inputs)
        results.append((y, *torch.autograd.grad((y * weights).sum(), [inputs, *module.parameters()])))
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("label", SLOW)
def test_a_mixer_is_its_equation_in_other_dtypes(label, dtype, close):
    module, x = mixer(label, (6, 5), 12, 3), torch.randn(2, 6, 5, 12, dtype=torch.float64)
    wanted = SLOW[label][0](module, x)
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert (y.double() - wanted).norm() <= close * wanted.norm()


def test_linearno_is_transolver_without_attention_among_its_slices():
    logits, values = torch.randn(2, 3, 40, 7, dtype=torch.float64), torch.randn(2, 3, 40, 4, dtype=torch.float64)
    s = logits.softmax(-1)
    ours = attend_softmax_features(logits, logits.log_softmax(-1), values)
    # All that is left between them is Transolver's 1e-5 in the denominator.
    torch.testing.assert_close(ours, s @ slice_tokens(s, values), rtol=0, atol=1e-4)
    exact = s.mT @ values / s.sum(2)[..., None]
    torch.testing.assert_close(ours, s @ exact)
    assert not torch.allclose(attend_softmax_features(logits, logits, values), s @ exact, atol=1e-2)


def test_a_slice_that_no_point_is_in_is_finite():
    logits = torch.tensor([[0.0, -200.0]]).repeat(6, 1)[None, None]
    assert slice_tokens(logits.softmax(-1), torch.randn(1, 1, 6, 3)).isfinite().all()


def test_the_temperature_stays_within_its_bounds():
    module, x = PhysicsAttention(8, 2, 4, mesh=True), torch.randn(1, 5, 5, 8)
    outputs = []
    for tau in (0.1, 1e-3, -3.0):
        module.temperature.data.fill_(tau)
        outputs.append(module(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_the_slices_of_transolver_are_orthogonal_at_the_start():
    weight = PhysicsAttention(32, 2, 8, mesh=False).to_slices.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(8))


@given(n=st.integers(1, 40), m=st.integers(1, 9), heads=st.integers(1, 3))
def test_flare_is_two_explicit_softmaxes(n, m, heads):
    q = torch.randn(heads, m, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, heads, n, 4, dtype=torch.float64)
    gather, scatter = (q @ k.mT).softmax(-1), (k @ q.mT).softmax(-1)
    torch.testing.assert_close(route(q, k, v), scatter @ (gather @ v))


@pytest.mark.parametrize("type", ["galerkin", "galerkin:fourier"])
def test_attention_without_a_softmax_follows_a_permutation_of_the_points(type):
    module, x = mixer(type, (30,), 12, 3), torch.randn(2, 30, 12, dtype=torch.float64)
    order = torch.randperm(30)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


@pytest.mark.parametrize("attend", [attend_galerkin, attend_fourier])
def test_attention_without_a_softmax_is_linear_in_its_values(attend):
    q, k, v, w = torch.randn(4, 2, 3, 20, 5, dtype=torch.float64)
    torch.testing.assert_close(attend(q, k, 2 * v - 3 * w), 2 * attend(q, k, v) - 3 * attend(q, k, w))


def test_galerkin_is_a_sum_in_which_finer_grids_weigh_the_same():
    q, k, v = torch.randn(3, 1, 1, 20, 5, dtype=torch.float64)
    twice = attend_galerkin(*(t.repeat_interleave(2, 2) for t in (q, k, v)))
    torch.testing.assert_close(twice, attend_galerkin(q, k, v).repeat_interleave(2, 2))


def test_galerkin_starts_near_a_small_multiple_of_the_identity():
    module = MODELS.load("galerkin").make(Problem("field", 1, 1, (8, 8)), dim=64, heads=4)
    weight = module.blocks[0].mixer.qkv.weight
    bound = 0.01 * (6 / 128) ** 0.5
    for part in weight.chunk(3):
        rest = part - 0.01 * torch.eye(64)
        assert rest.abs().max() <= bound
        assert rest.std() > 0.4 * bound


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_linear_in_the_points(name):
    model = MODELS.load(name)
    module = model.mixer(Tokens((8, 8)), model.options(dim=16, heads=2)).eval()
    with torch.no_grad():
        counts = [count_flops(lambda: module(torch.randn(1, side, side, 16))) for side in (8, 16, 32)]  # noqa: B023
    assert not any(count.unknown for count in counts)
    first, second, third = (count.total for count in counts)
    assert third - second == 4 * (second - first)  # attention among slices adds a constant


@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_serves_fields_of_one_axis(name):
    problem = Problem("field", 2, 3, (37,))
    assert MODELS.load(name).make(problem, dim=16, depth=1)(torch.randn(2, 2, 37)).shape == (2, 3, 37)


@pytest.mark.parametrize("name", NAMES)
def test_presets_of_the_papers_build(name):
    model = MODELS.load(name)
    module = model.make(Problem("field", 1, 1, (8, 8)), **model.presets["paper"])
    assert module(torch.randn(1, 1, 8, 8)).shape == (1, 1, 8, 8)
