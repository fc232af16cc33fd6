"""FlexAttention within a window against the blocks of SDPA."""

import pytest
import torch

from attn_bench.plugin import Problem
from baselines.transformer.flex_window import attend_flex, window_mask
from baselines.transformer.sliding_window import attend_window
from baselines.transformer.window import SlidingWindow


@pytest.mark.parametrize(
    ("grid", "before", "after"),
    [
        ((40,), 3, 0),
        ((7, 9), 2, 2),
        *(pytest.param(grid, 0, 0, marks=pytest.mark.slow) for grid in ((40,), (7, 9))),
    ],
)
def test_flex_sees_the_window_and_nothing_else(grid, before, after):
    """Forward on a CPU, where it is not compiled."""
    q, k, v = torch.randn(3, 2, *grid, 2, 16)
    reach = [before] * len(grid), [after] * len(grid)
    torch.testing.assert_close(attend_flex(q, k, v, *reach), attend_window(q, k, v, *reach), rtol=1e-4, atol=1e-5)


def test_the_mask_does_not_wrap_around_rows():
    index = torch.arange(12)
    mask = window_mask((3, 4), (1, 1), (1, 1))(torch.tensor(0), torch.tensor(0), index[:, None], index)
    assert mask[3].nonzero().flatten().tolist() == [2, 3, 6, 7]


def test_flex_is_unsupported_without_cuda():
    model, problem = SlidingWindow(), Problem("causal-text", 9, 9, (64,))
    assert "no backward pass on cpu" in model.unsupported(problem, "cpu", model.options(backend="flex"))
    assert model.unsupported(problem, "cuda", model.options(backend="flex")) is None
