"""Multipole attention compiled for one kind of layer, at its first use (``tiles.cpp``, :mod:`mano.tiled.compiler`).

Where there is no compiler, one warning says so, and :mod:`mano.tiled.operator` computes the same with torch, slower.

Axes in names: B batch, H W grid, C channels, O those of the coarse grid, F = heads * head_dim, N x N cells that a
coarse cell becomes.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mano.levels import ceil_div
from mano.tiled.compiler import BuildError, build
from mano.tiled.layer import Levels, Sizes, Weights, room

SOURCES = [Path(__file__).with_name(name) for name in ("tiles.cpp", "registers.h")]
REALS = {torch.float32: "float", torch.float64: "double"}
REGISTER_BYTES = 64
"""Channels must fill the widest vector registers there are."""
MAX_WINDOW, MAX_CHANNELS = 4, 512
"""Larger layers gain little: their time is that of the matrix products."""


@dataclass(frozen=True)
class Kind:
    """What the code is compiled for.

    Attributes:
        dtype: of all tensors.
        channels: C.
        heads, head_dim: attention heads, and the channels of one.
        window: side of a window, and distance between windows.
        rate: factor between the grids of two levels.
        norms: LayerNorms, one after the other; 1 or 2.
    """

    dtype: torch.dtype
    channels: int
    heads: int
    head_dim: int
    window: int
    rate: int
    norms: int

    def served(self) -> bool:
        """Tell whether the code is made for such a layer."""
        widest = max(self.channels, self.heads * self.head_dim)
        return (
            self.dtype in REALS
            and self.channels % (REGISTER_BYTES // self.dtype.itemsize) == 0
            and widest <= MAX_CHANNELS
            and self.window <= MAX_WINDOW
        )

    def macros(self) -> list[str]:
        values = {
            "REAL": REALS[self.dtype],
            "CHANNELS": self.channels,
            "HEADS": self.heads,
            "HEAD_DIM": self.head_dim,
            "WINDOW": self.window,
            "RATE": self.rate,
            "NORMS": self.norms,
        }
        return [f"-D{name}={value}" for name, value in values.items()]


class _Level(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "grad", "out")),
        *((name, ctypes.c_int64) for name in ("height", "width")),
    )


class _Weights(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("norms", "qkv", "out_CF", "out_FC", "bias")),
        ("eps", ctypes.c_double),
    )


class _Scales(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("coarse", "fine")),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width")),
    )


class Code:
    """The compiled functions, on contiguous tensors of the kind's dtype; torch's number of threads share the work."""

    def __init__(self, kind: Kind, library: ctypes.CDLL) -> None:
        self.kind, self._library = kind, library
        self._library.scratch_bytes.restype = ctypes.c_int64

    def attention(
        self,
        xs: Sequence[Tensor],
        grads: Sequence[Tensor] | None,
        norms: Sequence[Tensor],
        qkv: Tensor,
        out: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the attention of all levels, (B, H, W, C) each, and nothing.

        With gradients by it: the gradients by ``xs``, and those by ``norms``, ``qkv``, ``out`` and ``bias``.
        """
        results = [torch.empty_like(x) for x in xs]
        levels = (_Level * len(xs))()
        for level, x, grad, result in zip(levels, xs, grads or [None] * len(xs), results, strict=True):
            level.x, level.grad, level.out = x.data_ptr(), None if grad is None else grad.data_ptr(), result.data_ptr()
            level.height, level.width = x.shape[1:3]
        norms_NC = torch.stack(list(norms))
        held = norms_NC, qkv.contiguous(), out.contiguous(), out.t().contiguous(), bias.contiguous()
        weights = _Weights(*(w.data_ptr() for w in held), eps)
        threads = torch.get_num_threads()
        backward = grads is not None
        scratch = torch.empty(threads * self._library.scratch_bytes(int(backward)), dtype=torch.uint8)
        sizes = [norms_NC.numel(), qkv.numel(), out.numel(), bias.numel()]
        sums = qkv.new_zeros(threads, sum(sizes)) if backward else None
        self._library.attention(
            levels,
            ctypes.c_int64(len(xs)),
            ctypes.c_int64(len(xs[0])),
            ctypes.byref(weights),
            ctypes.c_void_p(scratch.data_ptr()),
            None if sums is None else ctypes.c_void_p(sums.data_ptr()),
            threads,
        )
        if sums is None:
            return results, []
        d_norms, d_qkv, d_out, d_bias = sums.sum(0).split(sizes)
        d_out = d_out.view(out.t().shape).t().contiguous()
        return results, [
            *(d.clone() for d in d_norms.view(len(norms), -1)),
            d_qkv.view_as(qkv).clone(),
            d_out,
            d_bias.clone(),
        ]

    def down_sample(self, fine_BHWC: Tensor, weight_NNCO: Tensor) -> Tensor:
        """Return D x; the weights' axes are the fine cells of a coarse one, fine and coarse channels."""
        b, h, w, _ = fine_BHWC.shape
        coarse = fine_BHWC.new_empty(b, ceil_div(h, self.kind.rate), ceil_div(w, self.kind.rate), self.kind.channels)
        self._scale(self._library.down_sample, coarse, fine_BHWC, weight_NNCO, torch.get_num_threads())
        return coarse

    def add_up_sampled(self, fine_BHWC: Tensor, coarse_BHWO: Tensor, weight_ONNC: Tensor) -> None:
        """Add U x to ``fine_BHWC`` in place; the weights' axes are coarse channels, fine cells, fine channels."""
        self._scale(self._library.add_up_sampled, coarse_BHWO, fine_BHWC, weight_ONNC, torch.get_num_threads())

    def weight_gradient(self, coarse_BHWO: Tensor, fine_BHWC: Tensor) -> Tensor:
        """Return the gradient by the weight of sum(coarse * D fine), which is sum(fine * U coarse): (N, N, C, O)."""
        c, rate = self.kind.channels, self.kind.rate
        threads = min(torch.get_num_threads(), coarse_BHWO.shape[0] * coarse_BHWO.shape[1])
        sums = fine_BHWC.new_zeros(threads, rate, rate, c, c)
        self._scale(self._library.weight_gradient, coarse_BHWO, fine_BHWC, sums, threads)
        return sums.sum(0)

    def _scale(self, function: ctypes._FuncPtr, coarse: Tensor, fine: Tensor, weight: Tensor, threads: int) -> None:
        grids = _Scales(coarse.data_ptr(), fine.data_ptr(), *fine.shape[:3])
        function(ctypes.byref(grids), ctypes.c_void_p(weight.data_ptr()), threads)


def forward(code: Code, x_BHWC: Tensor, weights: Weights, sizes: Sizes) -> Levels:
    """Return X_l and R_l; see :func:`mano.tiled.operator.tiled_multipole`."""
    norms, qkv, out, bias, down, up, level_weights = weights
    down_NNCO, up_ONNC = down.permute(2, 3, 1, 0).contiguous(), up.permute(0, 2, 3, 1).contiguous()
    xs = [x_BHWC.contiguous()]
    for _ in level_weights:
        xs.append(code.down_sample(xs[-1], down_NNCO))
    results, _ = code.attention(xs, None, norms, qkv, out, bias, sizes.eps)
    for l, level_weight in reversed(list(enumerate(level_weights.to(up.dtype)))):
        code.add_up_sampled(results[l], results[l + 1], up_ONNC * level_weight)
    return Levels(xs, results, room(xs, sizes.heads, sizes.window, False))


def backward(code: Code, grad_BHWC: Tensor, levels: Levels, weights: Weights, sizes: Sizes) -> list[Tensor]:
    """Return the gradients; see :func:`mano.tiled.operator.tiled_multipole_backward`."""
    norms, qkv, out, bias, down, up, level_weights = weights
    xs, coarse = ([x.contiguous() for x in tensors] for tensors in (levels.xs, levels.results[1:]))
    down_ONNC, up_NNCO = down.permute(0, 2, 3, 1).contiguous(), up.permute(2, 3, 1, 0).contiguous()
    grads, d_down, d_up = [grad_BHWC.contiguous()], torch.zeros_like(up_NNCO), torch.zeros_like(up_NNCO)
    d_level_weights = torch.zeros_like(level_weights)
    for l, level_weight in enumerate(level_weights.to(up.dtype)):
        d_scaled = code.weight_gradient(coarse[l], grads[l])
        d_level_weights[l] = (d_scaled * up_NNCO).sum()
        d_up += d_scaled * level_weight
        grads.append(code.down_sample(grads[l], up_NNCO * level_weight))
    results, found = code.attention(xs, grads, norms, qkv, out, bias, sizes.eps)
    for l in reversed(range(len(level_weights))):
        d_down += code.weight_gradient(results[l + 1], xs[l])
        code.add_up_sampled(results[l], results[l + 1], down_ONNC)
    scales = (d.permute(3, 2, 0, 1).contiguous() for d in (d_down, d_up))
    return [results[0], *found, *scales, d_level_weights]


@functools.cache
def code(kind: Kind) -> Code | None:
    """Return the code for a kind of layer, built if need be; None if it is not served or cannot be built."""
    if not kind.served():
        return None
    try:
        return Code(kind, build("mano", SOURCES, kind.macros()))
    except BuildError as error:
        _warn(str(error))
        return None


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"multipole attention runs on torch's operations, at two to three times the time: no compiled code ({reason}); "
        "install a C++ compiler (g++ 12 or clang 14, or newer) with OpenMP, or name it in CXX",
        stacklevel=2,
    )
