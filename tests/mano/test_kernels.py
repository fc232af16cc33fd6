"""The Triton kernels, run on the CPU by Triton's interpreter, against tensor operations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FEW = [  # window, stride, rate, levels, grid, heads, head_dim
    (2, 1, 2, 3, (5, 4), 2, 3),
    (3, 3, 3, 2, (5, 7), 1, 4),
]
MORE = [
    (2, 2, 2, 3, (7, 6), 2, 4),
    (3, 2, 2, 2, (5, 4), 2, 4),
    (4, 4, 2, 2, (6, 5), 2, 4),
    (4, 3, 4, 2, (9, 4), 1, 4),
    (8, 8, 2, 2, (9, 5), 1, 2),
    (8, 7, 2, 1, (6, 8), 1, 2),
]


def run(cases):
    import torch

    from mano.levels import level_grids
    from mano.overlapping import kernels
    from mano.overlapping.layout import Windows
    from mano.overlapping.window_attention import window_attention, window_attention_backward

    torch.manual_seed(0)
    for window, stride, rate, levels, grid, heads, head_dim in cases:
        batch = 2
        assert len(level_grids(grid, window, rate, levels)) == levels
        tokens = batch * sum(h * w for h, w in level_grids(grid, window, rate, levels))
        qkv, grad = 2 * torch.randn(tokens, 3 * heads * head_dim), torch.randn(tokens, heads * head_dim)
        windows = Windows(batch, *grid, levels, rate, heads, window, stride)
        want, nothing = window_attention(qkv, list(windows), None, True)
        got, statistics = kernels.forward(qkv, windows)
        torch.testing.assert_close(got, want, msg=lambda m, at=(window, stride, grid): f"{at}: {m}")
        want = window_attention_backward(grad, qkv, nothing, list(windows), None, True)
        got = kernels.backward(grad, qkv, statistics, windows)
        torch.testing.assert_close(
            got, want, rtol=1e-4, atol=5e-5, msg=lambda m, at=(window, stride, grid): f"{at}: {m}"
        )
        full = kernels.forward(qkv, windows)[0], got
        for dtype, limit in ((torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
            narrow, its_grad = qkv.to(dtype), grad.to(dtype)
            out, its = kernels.forward(narrow, windows)
            for y, reference in zip((out, kernels.backward(its_grad, narrow, its, windows)), full):
                assert y.dtype == dtype
                assert (y - reference).norm() < limit * reference.norm()
        # Neither rows nor channels need be next to each other.
        _, statistics = kernels.forward(qkv, windows)
        for spread in (lambda x: x.t().contiguous().t(), lambda x: torch.cat([x, x], 1)[:, : x.shape[1]]):
            gaps, its_grad = spread(qkv), spread(grad)
            assert not gaps.is_contiguous()
            assert torch.equal(kernels.forward(gaps, windows)[0], full[0])
            assert torch.equal(kernels.backward(its_grad, gaps, statistics, windows), full[1])
        # A gradient of a sum is one number for all.
        ones = torch.ones(1, 1).expand_as(grad)
        assert torch.equal(
            kernels.backward(ones, qkv, statistics, windows),
            kernels.backward(torch.ones_like(grad), qkv, statistics, windows),
        )
        nothing = Windows(0, *grid, levels, rate, heads, window, stride)
        out, statistics = kernels.forward(qkv[:0], nothing)
        assert (out.shape, statistics.shape) == ((0, grad.shape[1]), (0, heads, windows.slots**2))
        assert kernels.backward(grad[:0], qkv[:0], statistics, nothing).shape == (0, qkv.shape[1])


@pytest.mark.parametrize("which", ["few", pytest.param("more", marks=pytest.mark.slow)])
def test_kernels_equal_tensor_operations(which):
    # In a process of its own, as the variable is read when the kernels are defined.
    command, environment = [sys.executable, str(Path(__file__)), which], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    run(FEW if sys.argv[1] == "few" else MORE)
