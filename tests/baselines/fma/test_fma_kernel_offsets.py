"""The Triton kernels, run by Triton's interpreter, on tensors of more than 2^31 elements."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HEAD_DIM = 16
# Rows so wide that the last of 64 * 3 is beyond 2^31. Memory that is not touched is not used.
WIDE = 1 << 24


def spread(tensor):
    """Return the tensor, (G, N, HEAD_DIM), as the first channels of WIDE channels."""
    import torch

    wide = torch.empty(*tensor.shape[:2], WIDE, dtype=tensor.dtype)
    wide[..., :HEAD_DIM] = tensor
    return wide


def run():
    import torch

    from baselines.fma import kernels

    torch.manual_seed(0)
    groups, queries, blocks = 3, 64, 4
    q, k, v, do = (torch.randn(groups, queries, HEAD_DIM).half() for _ in range(4))
    index = torch.arange(queries, dtype=torch.int32).expand(blocks, -1).contiguous()
    bias = torch.zeros(queries)
    out, lse = kernels.forward(q, k, v, index, bias, -1)
    delta = (do.float() * out.float()).sum(-1)
    gradients = kernels.backward(do, delta, [q, k, v, index, bias], -1, lse)

    wide = [spread(x) for x in (q, k, v)]
    assert wide[0].numel() > 2**31
    size = queries // blocks
    # queries, rows, slots, size, parts, diagonal, scale
    sizes = queries, queries, queries, size, 1, -1, HEAD_DIM**-0.5
    constants = {"HEAD_DIM": WIDE, "CHANNELS": HEAD_DIM, "QUERIES": size, "SLOTS": 32, "PRECISION": "ieee"}
    wide_out, wide_lse = spread(torch.zeros_like(q)), torch.empty_like(lse)
    grid = (blocks * groups,)
    kernels._forward[grid](*wide, index, bias, wide_out, wide_lse, *sizes, **constants)
    torch.testing.assert_close(wide_out[..., :HEAD_DIM], out, rtol=0, atol=0)
    torch.testing.assert_close(wide_lse, lse, rtol=0, atol=0)
    dq, dk, dv = spread(torch.zeros_like(q)), *(spread(torch.zeros_like(x, dtype=torch.float32)) for x in (k, v))
    kernels._backward[grid](spread(do), delta, *wide, index, bias, lse, dq, dk, dv, *sizes, **constants)
    for got, want in zip((dq, dk, dv), gradients):
        torch.testing.assert_close(got[..., :HEAD_DIM].to(want.dtype), want, rtol=0, atol=0)


@pytest.mark.slow
def test_rows_beyond_two_to_the_31():
    command, environment = [sys.executable, str(Path(__file__))], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    run()
