"""Attention of blocks on the CPU in C++ (``blocks.cpp``), compiled for the width of a head at its first use.

Without a compiler there is one warning, and torch computes the same (:mod:`baselines.fma.cpu_blocks`).
Axes in names as in :mod:`baselines.fma.blocks`.
"""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.cpp.compiler import REGISTER_BYTES, built
from attn_bench.nn.precision import wide_dtype
from baselines.fma.tensor_blocks import NOTHING

SOURCE = Path(__file__).with_name("blocks.cpp")
MAX_CHANNELS = 128
"""Those of wider heads would not fit the cache."""
COMPUTED = {torch.float32: "float", torch.float64: "double"}
MAX_PARTS = 4
"""In so many parts, at most, the gradients by keys and values are summed, each with memory of its own."""


class _Inputs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "bias", "index")),
        *((name, ctypes.c_int64) for name in ("groups", "heads", "blocks", "size", "rows", "panels", "diagonal")),
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
        self._panel = library.panel_slots()

    def forward(
        self, q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
    ) -> tuple[Tensor, Tensor]:
        """Return the output and the log-sum-exp; see :func:`baselines.fma.blocks.attend_blocks`.

        Raises:
            ValueError: shapes or devices do not match, or a list has a row that there is not.
        """
        held, structure = self._inputs(q_BNHE, k_BTHE, v_BTHE, index_MS, bias_T, diagonal)
        out = torch.empty_like(held[0])
        lse = out.new_empty(out.shape[:3])
        pointers = (ctypes.c_void_p(x.data_ptr()) for x in (out, lse))
        self._library.forward(ctypes.byref(structure), *pointers, torch.get_num_threads())
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
        """Return the gradients; see :func:`baselines.fma.blocks.attend_blocks_backward`.

        Raises:
            ValueError: as :meth:`forward`.
        """
        (q, k, v, index_MS, bias_T), threads = inputs, torch.get_num_threads()
        held, structure = self._inputs(q, k, v, index_MS, bias_T, diagonal)
        dtype, lse = held[0].dtype, lse_BNH.to(held[0].dtype).contiguous()
        do = do_BNHE.to(dtype).contiguous()
        if do.shape != q.shape or out_BNHE.shape != q.shape or lse.shape != q.shape[:3]:
            raise ValueError("shapes of the output, the log-sum-exp and their gradients do not match")
        delta = (do * out_BNHE).sum(-1)
        if dlse_BNH is not None:
            delta -= dlse_BNH
        parts = min(range(1, MAX_PARTS + 1), key=lambda n: math.ceil(structure.groups * n / threads) / n)
        dq, (dk, dv) = torch.empty_like(held[0]), (x.new_zeros(parts, *x.shape) for x in held[1:3])
        gradients = _Gradients(*(x.data_ptr() for x in (do, delta, lse, dq, dk, dv)), parts)
        self._library.backward(ctypes.byref(structure), ctypes.byref(gradients), threads)
        dk, dv = ((d.sum(0) if parts > 1 else d[0]).transpose(1, 2) for d in (dk, dv))
        return dq.to(q.dtype), dk.to(k.dtype).contiguous(), dv.to(v.dtype).contiguous()

    def _inputs(
        self, q_BNHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, index_MS: Tensor, bias_T: Tensor, diagonal: int
    ) -> tuple[list[Tensor], _Inputs]:
        """Return the tensors as the C++ takes them, contiguous and in float32 at least, and what points to them."""
        (batch, tokens, heads, channels), (blocks, slots), rows = q_BNHE.shape, index_MS.shape, len(bias_T)
        shape, given = (batch, rows, heads, channels), (q_BNHE, k_BTHE, v_BTHE, index_MS, bias_T)
        if k_BTHE.shape != shape or v_BTHE.shape != shape or not blocks or tokens % blocks:
            raise ValueError("shapes of queries, keys, values, lists and biases do not match")
        if any(x.device.type != "cpu" for x in given):
            raise ValueError("queries, keys, values, lists and biases must be on the CPU")
        if index_MS.numel() and index_MS.max() >= rows:
            raise ValueError(f"a list has row {int(index_MS.max())}, but there are {rows} rows")
        dtype = wide_dtype(q_BNHE.dtype)
        q = q_BNHE.to(dtype).contiguous()
        k, v = (x.to(dtype).transpose(1, 2).contiguous() for x in (k_BTHE, v_BTHE))
        panels = -(-slots // self._panel)
        index = F.pad(index_MS.to(torch.int32), (0, panels * self._panel - slots), value=-1).contiguous()
        biases = F.pad(bias_T.to(dtype), (0, 1), value=-math.inf)  # the last one for slots without a row
        bias = biases[torch.where(index < 0, rows, index).long()]
        held = [q, k, v, bias, index]
        sizes = batch * heads, heads, blocks, tokens // blocks, rows, panels, diagonal
        return held, _Inputs(*(x.data_ptr() for x in held), *sizes)


@functools.cache
def library(dtype: torch.dtype, channels: int) -> Library | None:
    """Return the C++ for a dtype and the channels of a head, built if needed; None if there is none."""
    if dtype not in COMPUTED or channels % (REGISTER_BYTES // dtype.itemsize) or channels > MAX_CHANNELS:
        return None
    macros = {"REAL": COMPUTED[dtype], "HEAD_DIM": channels, "NOTHING": f"real({NOTHING})"}
    options = [f"-D{name}={value}" for name, value in macros.items()]
    found = built("Fast Multipole Attention", "fma", [SOURCE], options)
    return None if found is None else Library(found)


def library_for(q_BNHE: Tensor) -> Library | None:
    """Return the C++ for queries if there is any."""
    return library(wide_dtype(q_BNHE.dtype), q_BNHE.shape[-1])
