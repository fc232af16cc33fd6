"""Fast Multipole Attention token by token equals its parallel form; what it keeps grows with the number of levels."""

import itertools

import pytest
import torch
from test_fma_attention import ALL, SUMMARIES, randomise

from attn_bench.nn.generation import size
from baselines.fma.recurrent import RecurrentFMA


def recurrent(**options):
    torch.manual_seed(0)
    chosen = {"heads": 2, "cell_size": 4, "grid": (40,), "causal": True, **options}
    return randomise(RecurrentFMA(8, **chosen)).eval()


def one_by_one(module, x, context):
    y, state = module.prefill(x[:, :context])
    outputs = [y]
    for i in range(context, x.shape[1]):
        y, state = module.step(x[:, i : i + 1], state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize(("queries", "context"), [(False, 1), (True, 33)])
@pytest.mark.parametrize(
    "options",
    [
        *({"summary": summary, "rank": 2} for summary in SUMMARIES),
        {"rank": [4, 2, 4], "scale_coarse": True},
        {"grid": (8,), "rank": 4},
        {"cell_size": 3, "rank": 1, "summary": "average"},
        {"cell_size": 1, "rank": ALL, "summary": "dense"},
    ],
    ids=str,
)
@torch.no_grad()
def test_tokens_one_by_one_equal_one_call(options, queries, context):
    """Beyond the levels that have weights of their own, and where levels begin and end."""
    module, x = recurrent(query_downsampling=queries, **options), torch.randn(2, 90, 8).double()
    torch.testing.assert_close(one_by_one(module, x, context)[0], module(x))


@torch.no_grad()
def test_a_token_may_be_stepped_again_where_cells_begin():
    module, x = recurrent(query_downsampling=True), torch.randn(1, 70, 8).double()
    _, state = module.prefill(x[:, :1])
    for i in range(1, 70):
        first, _ = module.step(x[:, i : i + 1], state)
        again, state = module.step(x[:, i : i + 1], state)
        assert torch.equal(first, again), i


@torch.no_grad()
def test_the_state_after_a_prefill_is_that_after_the_tokens_one_by_one():
    module, x = recurrent(rank=2), torch.randn(2, 77, 8).double()
    for n in (4, 5, 31, 32, 33, 77):
        once, after = module.prefill(x[:, :n])[1], one_by_one(module, x[:, :n], 1)[1]
        assert (once.length, once.levels, size(once)) == (after.length, after.levels, size(after)), n
        for name in ("near", "far", "last", "begun", "total", "bias"):
            torch.testing.assert_close(getattr(once, name), getattr(after, name), msg=f"{name} after {n}")


@torch.no_grad()
def test_what_is_kept_grows_with_the_logarithm_of_the_context():
    """Twice the context adds a level that is read and one that begins, of the same size each time."""
    module = recurrent(cell_size=8, rank=2, grid=(64,)).float()
    sizes = [size(module.prefill(torch.zeros(3, n, 8))[1]) for n in (256, 512, 1024, 2048)]
    # Three sequences, keys and values, eight channels; a level has four cells of two summaries each, and their biases.
    level = 3 * 2 * 8 * 4 * (3 * 2 + 2) + 4 * 4
    assert [after - before for before, after in itertools.pairwise(sizes)] == [level] * 3
    assert sizes[0] < 3 * 2 * 8 * 4 * 256 / 2


@torch.no_grad()
def test_in_bfloat16_sums_stay_exact_enough():
    module, x = recurrent().float(), torch.randn(1, 200, 8)
    want = module(x)
    got, state = one_by_one(module.bfloat16(), x.bfloat16(), 100)
    assert (state.begun.dtype, state.near.dtype, got.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    assert (got - want).norm() < 3e-2 * want.norm()
