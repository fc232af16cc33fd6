"""Fast Multipole Attention against exact attention, its equations, and what must hold for any weights."""

import pytest
import torch
from fma_reference import exact, slow
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.plugin import OptionError
from attn_bench.running.measure.memory import host_allocations
from baselines.fma import blocks, cpu_blocks, tensor_blocks
from baselines.fma.attention import FastMultipoleAttention
from baselines.fma.attention_plan import attention_plan
from baselines.fma.blocks import attend_blocks
from baselines.fma.tensor_blocks import NOTHING
from baselines.fma.tree import Tree

SUMMARIES = ["grouped", "dense", "average"]
ALL = 10**9  # as many summaries as tokens, at every level


def sequences(seed=0, **options):
    torch.manual_seed(seed)
    return FastMultipoleAttention(8, **{"heads": 2, "cell_size": 4, "grid": (130,), **options})


def grids(seed=0, **options):
    torch.manual_seed(seed)
    return FastMultipoleAttention(8, **{"heads": 2, "cell_size": 2, "grid": (20, 20), **options})


def randomise(module):
    """Kernels far from averages."""
    for name, parameter in module.named_parameters():
        if "summaries" in name:
            torch.nn.init.normal_(parameter)
    return module.double()


def assert_same_with_gradients(module, x, reference):
    found = []
    weight = torch.randn_like(x)
    for function in (module, lambda x: reference(module, x)):
        leaf = x.clone().requires_grad_()
        module.zero_grad()
        y = function(leaf)
        (y * weight).sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None and "summ" not in name}
        found.append((y, leaf.grad, gradients))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [16, 17, 31, 64, 100, 129])
@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("causal", [False, True])
def test_with_all_summaries_sequences_see_exact_attention(causal, summary, n):
    module = sequences(rank=ALL, summary=summary, causal=causal, scale_coarse=True)
    assert_same_with_gradients(module, torch.randn(2, n, 8), exact)


@pytest.mark.parametrize("grid", [(8, 8), (9, 13), (16, 16), (5, 20), (1, 9)], ids=str)
@pytest.mark.parametrize("options", [{}, {"cell_size": 3}, {"query_downsampling": True}], ids=str)
@pytest.mark.parametrize("summary", SUMMARIES)
def test_with_all_summaries_grids_see_exact_attention(summary, options, grid):
    assert_same_with_gradients(grids(rank=ALL, summary=summary, **options), torch.randn(2, *grid, 8), exact)


@pytest.mark.parametrize("n", [64, 100, 129])
def test_queries_of_one_token_are_not_down_sampled(n):
    module = sequences(rank=ALL, query_downsampling=True)
    assert_same_with_gradients(module, torch.randn(2, n, 8), exact)


def test_one_identity_kernel_per_level_given_as_a_list():
    module = sequences(rank=[4, 8, 16, 32], causal=True)
    assert_same_with_gradients(module, torch.randn(1, 128, 8), exact)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"scale_coarse": True}], ids=str)
@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("n", [32, 43])
def test_sequences_equal_the_equations(n, queries, summary, options):
    module = sequences(rank=[2, 4, 2], summary=summary, query_downsampling=queries, grid=(43,), **options)
    assert_same_with_gradients(randomise(module), torch.randn(2, n, 8).double(), slow)


@pytest.mark.parametrize("options", [{}, {"scale_coarse": True}, {"query_downsampling": True}], ids=str)
@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("grid", [(8, 8), (9, 5)], ids=str)
def test_grids_equal_the_equations(grid, summary, options):
    module = grids(rank=[1, 4], summary=summary, grid=(9, 9), **options)
    assert_same_with_gradients(randomise(module), torch.randn(1, *grid, 8).double(), slow)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [33, 64, 100, 1000, 1024])
@pytest.mark.parametrize("rank", [1, 2, 8])
def test_every_token_counts_once_and_padding_not_at_all(rank, n, causal):
    module = sequences(rank=rank, summary="average", causal=causal, scale_coarse=True, cell_size=8)
    module.qkv.weight.data[8:16] = 0  # all keys alike: attention is the mean of what a token may see
    x = torch.randn(2, n, 8)
    values = module.qkv(x)[..., 16:]
    mean = values.cumsum(1) / torch.arange(1, n + 1)[:, None] if causal else values.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(module(x), module.project(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(16, 16), (43, 43), (9, 31)], ids=str)
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("queries", [False, True])
def test_every_point_of_a_grid_counts_once_and_padding_not_at_all(queries, rank, grid):
    module = grids(rank=rank, summary="average", scale_coarse=True, cell_size=4, query_downsampling=queries)
    module.qkv.weight.data[8:16] = 0
    x = torch.randn(2, *grid, 8)
    mean = module.qkv(x)[..., 16:].mean((1, 2), keepdim=True).expand_as(x)
    torch.testing.assert_close(module(x), module.project(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [16, 48, 100, 512, 1000, 2049, 4096])
def test_lists_read_every_token_once(n, causal):
    tree, rank = Tree((n,), 8), 4
    levels = tuple((tree.width(level), rank) for level in range(1, tree.levels + 1))
    reads = attention_plan(tree, levels, causal, False, False, torch.device("cpu")).near.index_MS.long()
    # Which run of tokens every row of keys stands for.
    sizes = [1] * tree.tokens + [width // rank for width, _ in levels for _ in range(tree.tokens // width * rank)]
    sizes = torch.tensor([*sizes, 0])
    starts = torch.cat([torch.arange(tree.tokens)] + [torch.arange(0, tree.tokens, w // rank) for w, _ in levels])
    starts = torch.cat([starts, torch.tensor([0])])
    steps = torch.zeros(len(reads), tree.tokens + 1, dtype=torch.long)
    steps.scatter_add_(1, starts[reads], (reads >= 0).long()).scatter_add_(
        1, starts[reads] + sizes[reads], -(reads >= 0).long()
    )
    counts = steps.cumsum(1)[:, :n]
    allowed = torch.arange(n) // 8 <= torch.arange(len(reads))[:, None] if causal else torch.ones_like(counts)
    assert torch.equal(counts, allowed.long())


@given(
    n=st.integers(9, 150),
    where=st.floats(0, 1),
    summary=st.sampled_from(SUMMARIES),
    rank=st.sampled_from([1, 2, 4, [4, 2], ALL]),
    queries=st.booleans(),
    scale=st.booleans(),
)
def test_no_output_depends_on_a_later_token(n, where, summary, rank, queries, scale):
    module = sequences(rank=rank, summary=summary, causal=True, query_downsampling=queries, scale_coarse=scale)
    x, j = torch.randn(1, n, 8, requires_grad=True), 1 + int(where * (n - 2))
    before = module(x)
    changed = x.detach().clone()
    changed[:, j:] = 100 * torch.randn(1, n - j, 8)
    assert torch.equal(module(changed)[:, :j], before[:, :j])
    before[:, :j].square().sum().backward()
    assert (x.grad[:, j:] == 0).all()
    assert (x.grad[:, : j - 1] != 0).any() or j == 1


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_all_near_is_exact_attention(causal, n):
    module = sequences(causal=causal)
    x = torch.randn(2, n, 8)
    torch.testing.assert_close(module(x), exact(module, x))


def test_longer_sequences_stretch_the_last_kernel():
    short, long = sequences(grid=(32,), rank=2), sequences(grid=(64,), rank=2)
    long.load_state_dict(short.state_dict(), strict=False)
    first, last = (randomise(short).key_summaries.kernels[i] for i in (0, -1))
    assert len(long.key_summaries.kernels) == len(short.key_summaries.kernels) + 1
    assert first.shape[2] * 2 == last.shape[2]
    torch.testing.assert_close(short.key_summaries.kernel(3, 16)[..., ::2], short.key_summaries.kernel(2, 8) / 2)
    torch.testing.assert_close(short.key_summaries.kernel(3, 16)[..., 1::2], short.key_summaries.kernel(2, 8) / 2)
    assert short(torch.randn(1, 500, 8).double()).isfinite().all()


@pytest.mark.parametrize("limit", [1, 2000, 10**9])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_change_nothing(monkeypatch, causal, limit):
    module, x = sequences(causal=causal).double(), torch.randn(3, 75, 8).double()
    want = module(x)
    monkeypatch.setattr(cpu_blocks, "CHUNK_BYTES", limit)
    leaf = x.clone().requires_grad_()
    got = module(leaf)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    monkeypatch.undo()
    again = x.clone().requires_grad_()
    module(again).square().sum().backward()
    torch.testing.assert_close(leaf.grad, again.grad)


@pytest.mark.parametrize(
    ("grid", "options"),
    [((4096,), {}), ((4096,), {"causal": True}), ((4096,), {"query_downsampling": True}), ((64, 64), {"cell_size": 4})],
)
def test_no_intermediate_is_larger_than_four_outputs(grid, options):
    module = FastMultipoleAttention(64, grid, **{"heads": 4, "cell_size": 32, **options})
    x = torch.randn(1, *grid, 64)
    with torch.no_grad():
        module(x)
        assert max(host_allocations(lambda: module(x))) <= 4 * x.nbytes


@pytest.mark.parametrize("channels", [3, 8])  # in torch's operations, and in C++
@pytest.mark.parametrize("diagonal", [-1, 2])
def test_gradients_of_the_operator(diagonal, channels):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 2, channels, dtype=torch.float64, requires_grad=True) for n in (8, 11, 11))
    index = torch.randint(-1, 11, (2, 9), dtype=torch.int32)
    index[1, 2:] = -1
    bias = torch.randn(11).double()
    torch.autograd.gradcheck(lambda *t: attend_blocks(*t, index, bias, diagonal), (q, k, v))
    torch.autograd.gradcheck(lambda *t: attend_blocks(*t, index, bias, diagonal)[0], (q, k, v))
    torch.library.opcheck(attend_blocks, (q, k, v, index, bias, diagonal))


@pytest.mark.parametrize("limit", [1, 10**9])
@pytest.mark.parametrize("diagonal", [-1, 2])
def test_devices_without_a_kernel_compute_the_same(monkeypatch, diagonal, limit):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 2, 3, requires_grad=True) for n in (8, 11, 11))
    index = torch.randint(-1, 11, (2, 9), dtype=torch.int32)
    index[1] = -1
    given = k, v, index, torch.randn(11), diagonal
    out, lse = attend_blocks(q, *given)
    do, dlse = torch.randn_like(out), torch.randn_like(lse).masked_fill(lse == NOTHING, 0)
    want = torch.autograd.grad((out, lse), (q, k, v), (do, dlse))
    monkeypatch.setattr(tensor_blocks, "CHUNK_BYTES", limit)
    groups = [blocks._groups(t.detach()) for t in (q, k, v)]
    got, got_lse = tensor_blocks.forward(*groups, *given[2:])
    torch.testing.assert_close(blocks._samples(got, q), out)
    torch.testing.assert_close(blocks._samples(got_lse, q), lse)
    delta = (do * out).sum(-1) - dlse
    found = tensor_blocks.backward(
        blocks._groups(do), blocks._groups(delta), [*groups, *given[2:4]], diagonal, got_lse
    )  # fmt: skip
    torch.testing.assert_close(tuple(blocks._samples(t, q) for t in found), want)


def test_a_query_without_keys_gets_zeros():
    q, k = torch.randn(1, 4, 1, 3, requires_grad=True), torch.randn(1, 5, 1, 3, requires_grad=True)
    index = torch.tensor([[0, 1], [-1, -1]], dtype=torch.int32)
    out, lse = attend_blocks(q, k, k, index, torch.zeros(5), -1)
    assert (out[:, 2:] == 0).all()
    assert (lse[:, 2:] == NOTHING).all()
    (out.sum() + lse[:, :2].sum()).backward()
    assert q.grad.isfinite().all()
    assert (q.grad[:, 2:] == 0).all()
    assert (k.grad[:, 2:] == 0).all()


def test_bfloat16_stays_close():
    module, x = sequences(cell_size=8), torch.randn(2, 120, 8)
    want = module(x)
    got = module.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got - want).norm() < 3e-2 * want.norm()


@pytest.mark.parametrize(
    ("make", "options", "name"),
    [
        (sequences, {"rank": 3}, "rank"),
        (sequences, {"rank": 0}, "rank"),
        (sequences, {"rank": []}, "rank"),
        (sequences, {"rank": [1, 4], "query_downsampling": True}, "rank"),
        (sequences, {"cell_size": 0}, "cell_size"),
        (sequences, {"summary": "max"}, "summary"),
        (sequences, {"heads": 3}, "heads"),
        (grids, {"heads": 3}, "heads"),
        (sequences, {"dropout": 1.0}, "dropout"),
        (grids, {"rank": 3}, "rank"),
        (grids, {"cell_size": -1}, "cell_size"),
    ],
)
def test_bad_values_are_errors_of_one_line(make, options, name):
    with pytest.raises(OptionError, match=name) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


def test_without_a_kernel_to_stretch_longer_sequences_take_averages():
    short, average = sequences(grid=(8,)), sequences(summary="average")
    average.load_state_dict(short.state_dict())
    x = torch.randn(1, 100, 8)
    assert torch.equal(short(x), average(x))
