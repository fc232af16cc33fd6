"""Attention of blocks on the CPU in C++ (``blocks.cpp``), compiled for the width of a head at its first use.

Without a compiler there is one warning, and torch computes the same (:mod:`baselines.fma.cpu_blocks`).
Axes in names as in :mod:`baselines.fma.blocks`.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from attn_bench.nn.cpp.compiler import BuildError, build, warn_without_compiler
from baselines.fma.tensor_blocks import wide

SOURCE = Path(__file__).with_name("blocks.cpp")
REGISTER_BYTES = 64
"""The channels of a head must fill the widest vector registers there are."""
MAX_CHANNELS = 128
"""Those of wider heads would not fit the cache."""
COMPUTED = {torch.float32: "float", torch.float64: "double"}


class _Inputs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "bias", "index")),
        *((name, ctypes.c_int64) for name in ("groups", "heads", "blocks", "size", "rows", "slots", "diagonal")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("do", "delta", "lse", "dq", "dk", "dv")),
        ("parts", ctypes.c_int64),
    )


class Library:
    """The compiled functions; they use torch's number of threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def forward(
        self, q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
    ) -> tuple[Tensor, Tensor]:
        """Return the output and the log-sum-exp; see :func:`baselines.fma.blocks.attend_blocks`."""
        inputs = _Passed(q_BNHE, k_BTHE, v_BTHE, index_MS, bias_T, diagonal)
        out = torch.empty_like(inputs.q)
        lse = out.new_empty(out.shape[:3])
        pointers = (ctypes.c_void_p(x.data_ptr()) for x in (out, lse))
        self._library.forward(ctypes.byref(inputs.structure), *pointers, torch.get_num_threads())
        return out.to(q_BNHE.dtype), lse

    def backward(
        self,
        do_BNHE: Tensor,
        dlse_BNH: Tensor | None,
        inputs: list[Tensor],
        diagonal: int,
        out_BNHE: Tensor,
        lse_BNH: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients; see :func:`baselines.fma.blocks.attend_blocks_backward`."""
        q, k, v, index_MS, bias_T = inputs
        passed = _Passed(q, k, v, index_MS, bias_T, diagonal)
        do = do_BNHE.to(passed.q.dtype).contiguous()
        delta = (do * out_BNHE).sum(-1)
        if dlse_BNH is not None:
            delta -= dlse_BNH
        threads = torch.get_num_threads()
        parts = max(1, threads // max(1, passed.structure.groups))
        dq, (dk, dv) = torch.empty_like(passed.q), (x.new_zeros(parts, *x.shape) for x in (passed.k, passed.v))
        held = do, delta.contiguous(), lse_BNH.contiguous(), dq, dk, dv
        gradients = _Gradients(*(x.data_ptr() for x in held), parts)
        self._library.backward(ctypes.byref(passed.structure), ctypes.byref(gradients), threads)
        dk, dv = (d.sum(0) if parts > 1 else d[0] for d in (dk, dv))
        dq, dk, dv = (d.to(x.dtype) for d, x in zip((dq, dk.transpose(1, 2), dv.transpose(1, 2)), inputs))
        return dq, dk.contiguous(), dv.contiguous()


class _Passed:
    """The arguments as the C++ takes them: contiguous, in float32 at least.

    Raises:
        ValueError: shapes do not match, or a list has a row that there is not.
    """

    def __init__(
        self, q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
    ) -> None:
        dtype = wide(q_BNHE)
        self.q, self.bias = (x.to(dtype).contiguous() for x in (q_BNHE, bias_T))
        self.k, self.v = (x.to(dtype).transpose(1, 2).contiguous() for x in (k_BTHE, v_BTHE))
        self.index = index_MS.to(torch.int32).contiguous()
        (batch, tokens, heads, channels), (blocks, slots), rows = self.q.shape, self.index.shape, len(self.bias)
        shape = batch, heads, rows, channels
        if self.k.shape != shape or self.v.shape != shape or tokens % blocks:
            raise ValueError("shapes of queries, keys, values, lists and biases do not match")
        if self.index.numel() and self.index.max() >= rows:
            raise ValueError(f"a list has row {int(self.index.max())}, but there are {rows} rows")
        sizes = batch * heads, heads, blocks, tokens // blocks, rows, slots, diagonal
        self.structure = _Inputs(
            *(x.data_ptr() for x in (self.q, self.k, self.v, self.bias, self.index)),
            *sizes,
        )


@functools.cache
def library(dtype: torch.dtype, channels: int) -> Library | None:
    """Return the C++ for a dtype and the channels of a head, built if needed; None if there is none."""
    if dtype not in COMPUTED or channels % (REGISTER_BYTES // dtype.itemsize) or channels > MAX_CHANNELS:
        return None
    try:
        return Library(build("fma", [SOURCE], [f"-DREAL={COMPUTED[dtype]}", f"-DHEAD_DIM={channels}"]))
    except BuildError as error:
        warn_without_compiler("Fast Multipole Attention", str(error))
        return None


def library_for(q_BNHE: Tensor) -> Library | None:
    """Return the C++ for queries if there is any."""
    return library(wide(q_BNHE), q_BNHE.shape[-1])
