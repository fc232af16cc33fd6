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
    half, _ = kernels.forward(qkv.bfloat16(), windows)
    assert half.dtype == torch.bfloat16
    full, _ = kernels.forward(qkv, windows)
    assert (half - full).norm() < 2e-2 * full.norm()


@pytest.mark.parametrize("which", ["few", pytest.param("more", marks=pytest.mark.slow)])
def test_kernels_equal_tensor_operations(which):
    # In a process of its own, as the variable is read when the kernels are defined.
    command, environment = [sys.executable, str(Path(__file__)), which], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    run(FEW if sys.argv[1] == "few" else MORE)
