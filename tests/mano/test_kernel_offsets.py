"""The Triton kernels, run by Triton's interpreter, on tensors of more than 2^31 elements."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HEAD_DIM = 16
# Rows so wide that the last of 64 is beyond 2^31. Memory that is not touched is not used.
WIDE = 1 << 24


def spread(tensor, parts):
    """Return the tensor, (T, parts * HEAD_DIM), as the first channels of parts of WIDE channels."""
    import torch

    wide = torch.empty(len(tensor), parts, WIDE, dtype=tensor.dtype)
    wide[..., :HEAD_DIM] = tensor.unflatten(1, (parts, HEAD_DIM))
    return wide


def run():
    import torch

    from mano.overlapping import kernels
    from mano.overlapping.layout import Windows

    torch.manual_seed(0)
    windows = Windows(1, 8, 8, 1, 2, 1, 2, 1)
    qkv, grad = torch.randn(64, 3 * HEAD_DIM).half(), torch.randn(64, HEAD_DIM).half()
    out, lse = kernels.forward(qkv, windows)
    dqkv = kernels.backward(grad, qkv, lse, windows)

    wide_qkv, wide_grad = spread(qkv, 3), spread(grad, 1)
    assert wide_qkv.numel() > 2**31
    wide_out, wide_dqkv, delta = torch.empty_like(wide_grad), torch.empty_like(wide_qkv), torch.empty_like(lse)
    sizes = windows.batch, windows.height, windows.width, windows.levels, len(qkv), WIDE, HEAD_DIM**-0.5
    constants = {
        "HEAD_DIM": HEAD_DIM,
        "CHANNELS": HEAD_DIM,
        "RATE": 2,
        "WINDOW": 2,
        "STRIDE": 1,
        "SLOTS": 2,
        "BLOCK": 64,
    }
    kernels._forward[(1, 1)](wide_qkv, wide_out, lse, *sizes, **constants)
    for kernel in (kernels._query_gradient, kernels._key_gradient):
        kernel[(1, 1)](wide_grad, wide_qkv, lse, delta, wide_dqkv, *sizes, **constants)
    torch.testing.assert_close(wide_out[..., :HEAD_DIM].flatten(1), out, rtol=0, atol=0)
    torch.testing.assert_close(wide_dqkv[..., :HEAD_DIM].flatten(1), dqkv, rtol=0, atol=0)


@pytest.mark.slow
def test_rows_beyond_two_to_the_31():
    command, environment = [sys.executable, str(Path(__file__))], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    run()
