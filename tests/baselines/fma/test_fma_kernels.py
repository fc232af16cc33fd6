"""The Triton kernels, run on the CPU by Triton's interpreter, against tensor operations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FEW = [  # grid, side, rank, head_dim, causal, separate
    ((64,), 16, 4, 8, True, False),
    ((75,), 5, 5, 16, False, False),
]
MORE = [
    ((100,), 8, 2, 5, True, False),
    ((100,), 8, 4, 24, False, True),
    ((13, 9), 3, 3, 8, False, False),
    ((210,), 70, 7, 4, True, False),
]


def dot_of_bfloat16():
    """Let the interpreter multiply bfloat16 as numbers; by itself it multiplies their bits as integers."""
    import numpy as np
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    usual = InterpreterBuilder.create_dot

    def widened(x):
        if x.dtype.scalar != bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), float32)

    InterpreterBuilder.create_dot = lambda self, a, b, *rest: usual(self, widened(a), widened(b), *rest)


def check(q, k, v, reads, diagonal, label):
    import torch

    from baselines.fma import kernels, tensor_blocks

    lists = reads.index_MS, reads.bias_T, diagonal
    out, lse = tensor_blocks.forward(q, k, v, *lists)
    got, got_lse = kernels.forward(q, k, v, *lists)
    torch.testing.assert_close((got, got_lse), (out, lse), msg=lambda m: f"{label}: {m}")
    do, dlse = torch.randn_like(out), torch.randn_like(lse)
    want = tensor_blocks.backward(do, (do * out).sum(-1) - dlse, [q, k, v, *lists[:2]], lists[2], lse)
    found = kernels.backward(do, (do * out).sum(-1) - dlse, [q, k, v, *lists[:2]], lists[2], lse)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=2e-5, msg=lambda m: f"{label}: {m}")
    exact = out, *want
    for dtype, limit in ((torch.float16, 1e-2), (torch.bfloat16, 3e-2)):
        half = [x.to(dtype) for x in (q, k, v)]
        got, got_lse = kernels.forward(*half, *lists)
        found = kernels.backward(do.to(dtype), (do * out).sum(-1) - dlse, [*half, *lists[:2]], lists[2], got_lse)
        for y, reference in zip((got, *found), exact):
            assert y.dtype == dtype
            assert (y - reference).norm() < limit * reference.norm(), (label, dtype)
    # As they come from a projection: heads and channels before tokens.
    delta = (do * out).sum(-1) - dlse
    found = kernels.backward(do, delta, [q, k, v, *lists[:2]], lists[2], lse)
    moved = [x.permute(2, 0, 1).contiguous().permute(1, 2, 0) for x in (q, k, v, do)]
    assert not any(x.is_contiguous() for x in moved)
    assert torch.equal(kernels.forward(*moved[:3], *lists)[0], kernels.forward(q, k, v, *lists)[0])
    again = kernels.backward(moved[3], delta, [*moved[:3], *lists[:2]], lists[2], lse)
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    nothing = [x[:0] for x in (q, k, v)]
    got, got_lse = kernels.forward(*nothing, *lists)
    assert (got.shape, got_lse.shape) == (nothing[0].shape, nothing[0].shape[:2])
    found = kernels.backward(do[:0], delta[:0], [*nothing, *lists[:2]], lists[2], got_lse)
    assert [x.shape for x in found] == [x.shape for x in nothing]


def run(cases):
    import torch

    from baselines.fma.attention_plan import attention_plan
    from baselines.fma.tree import Tree

    torch.manual_seed(0)
    dot_of_bfloat16()
    for label in cases:
        grid, side, rank, head_dim, causal, separate = label
        tree = Tree(grid, side)
        levels = tuple((tree.width(level), rank) for level in range(1, tree.levels + 1))
        at = attention_plan(tree, levels, causal, True, separate, torch.device("cpu"))

        def tensors(queries, rows, head_dim=head_dim):
            return (torch.randn(2, n, head_dim) for n in (queries, rows, rows))

        queries = len(at.near.index_MS) * tree.width(1)
        check(*tensors(queries, len(at.near.bias_T)), at.near, side if causal else -1, label)
        for reads in at.far:
            check(*tensors(len(reads.index_MS) * rank, len(reads.bias_T)), reads, -1, label)


@pytest.mark.parametrize("which", ["few", pytest.param("more", marks=pytest.mark.slow)])
def test_kernels_equal_tensor_operations(which):
    # In a process of its own, as the variable is read when the kernels are defined.
    command, environment = [sys.executable, str(Path(__file__)), which], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    run(FEW if sys.argv[1] == "few" else MORE)
