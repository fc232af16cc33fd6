"""Multipole attention in C++, compiled for the sizes of a layer at its first use.

``tiles.cpp`` has windows side by side (up to 4 x 4 with ``narrow.h``, larger ones with ``wide.h``), ``overlapping.cpp``
windows that overlap. Without a compiler there is one warning, and torch computes the same (:mod:`mano.tiled.eager`,
:mod:`mano.overlapping.window_attention`), but slower.

Axes in names: B batch, H W grid, C channels, O those of the coarse grid, F = heads * head_dim, N x N cells that a
coarse cell becomes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attn_bench.nn.cpp.compiler import REGISTER_BYTES, built
from attn_bench.nn.precision import wide_dtype
from mano.levels import ceil_div
from mano.tiled.layer import Levels, Sizes, Weights, empty_probabilities

TILES, OVERLAPPING = (Path(__file__).with_name(name) for name in ("tiles.cpp", "overlapping.cpp"))
HEADERS = [Path(__file__).with_name(name) for name in ("layer.h", "narrow.h", "sampling.h", "wide.h")]
STORED = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16"}
MAX_WINDOW, MAX_CHANNELS = 8, 512
"""Larger layers gain little, as matrix products dominate their time."""


@dataclass(frozen=True)
class LayerSizes:
    """The sizes that the C++ is compiled for.

    Attributes:
        dtype: of grids. Weights, and all arithmetic, are :func:`attn_bench.nn.precision.wide_dtype` of it.
        channels: C.
        heads, head_dim: attention heads, and the channels of one.
        window_size, stride: side of a window, and distance between windows, in cells.
        rate: factor between the grids of two levels.
        norms: number of LayerNorms, one after the other; 1 or 2.
    """

    dtype: torch.dtype
    channels: int
    heads: int
    head_dim: int
    window_size: int
    stride: int
    rate: int
    norms: int

    @property
    def overlapping(self) -> bool:
        """Whether windows overlap."""
        return self.stride < self.window_size

    @property
    def sources(self) -> list[Path]:
        """The C++ file, then those that it includes."""
        return [OVERLAPPING if self.overlapping else TILES, *HEADERS]

    def served(self) -> bool:
        """Tell whether the C++ supports such a layer."""
        widest = max(self.channels, self.heads * self.head_dim)
        return (
            self.dtype in STORED
            and self.channels % (REGISTER_BYTES // wide_dtype(self.dtype).itemsize) == 0
            and widest <= MAX_CHANNELS
            and self.window_size <= MAX_WINDOW
        )

    def macros(self) -> list[str]:
        """Return the compiler's options that define the sizes as macros."""
        values = {
            "REAL": STORED[wide_dtype(self.dtype)],
            "STORED": STORED[self.dtype],
            "CHANNELS": self.channels,
            "HEADS": self.heads,
            "HEAD_DIM": self.head_dim,
            "WINDOW": self.window_size,
            "STRIDE": self.stride,
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


class Library:
    """The compiled functions, on contiguous grids of the layer's dtype; they use torch's number of threads.

    Weights and gradients by them are in float32, or float64 as the grids.
    """

    def __init__(self, layer: LayerSizes, library: ctypes.CDLL) -> None:
        self.layer, self._library = layer, library
        self._library.scratch_bytes.restype = ctypes.c_int64

    def attention(self, xs: Sequence[Tensor], weights: Weights, eps: float) -> list[Tensor]:
        """Return the attention of all levels, (B, H, W, C) each."""
        return self._attention(xs, [None] * len(xs), weights, eps, None)

    def attention_backward(
        self, xs: Sequence[Tensor], grads: Sequence[Tensor], weights: Weights, eps: float
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the gradients by ``xs``, those by ``qkv``, ``out`` and ``bias``, and those by ``norms``.

        Args:
            xs: X_0, X_1, ...
            grads: the gradients by the attention of all levels.
            weights: of the layer.
            eps: of the LayerNorms.
        """
        norms, (qkv, out, bias) = weights.norms, weights[:3]
        parts = [sum(w.numel() for w in norms), qkv.numel(), out.numel(), bias.numel()]
        sums = qkv.new_zeros(torch.get_num_threads(), sum(parts))
        results = self._attention(xs, grads, weights, eps, sums)
        d_norms, d_qkv, d_out, d_bias = sums.sum(0).split(parts)
        d_out = d_out.view(out.t().shape).t().contiguous()
        d_projections = [d_qkv.view_as(qkv).clone(), d_out, d_bias.clone()]
        return results, d_projections, [d.clone() for d in d_norms.view(len(norms), -1)]

    def _attention(
        self,
        xs: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        weights: Weights,
        eps: float,
        sums: Tensor | None,
    ) -> list[Tensor]:
        """Run either pass; ``sums`` has a row for each thread, to which the gradients by the weights are added."""
        results = [torch.empty_like(x) for x in xs]
        levels = (_Level * len(xs))()
        for level, x, grad, result in zip(levels, xs, grads, results, strict=True):
            level.x, level.grad, level.out = x.data_ptr(), None if grad is None else grad.data_ptr(), result.data_ptr()
            level.height, level.width = x.shape[1:3]
        qkv, out, bias = weights[:3]
        held = torch.stack(weights.norms), qkv.contiguous(), out.contiguous(), out.t().contiguous(), bias.contiguous()
        pointers = _Weights(*(w.data_ptr() for w in held), eps)
        threads = torch.get_num_threads()
        scratch = torch.empty(threads * self._library.scratch_bytes(int(sums is not None)), dtype=torch.uint8)
        self._library.attention(
            levels,
            ctypes.c_int64(len(xs)),
            ctypes.c_int64(len(xs[0])),
            ctypes.byref(pointers),
            ctypes.c_void_p(scratch.data_ptr()),
            None if sums is None else ctypes.c_void_p(sums.data_ptr()),
            threads,
        )
        return results

    def down_sample(self, fine_BHWC: Tensor, weight_NNCO: Tensor) -> Tensor:
        """Return D x; the weights' axes are the fine cells of a coarse one, fine and coarse channels."""
        b, h, w, _ = fine_BHWC.shape
        coarse = fine_BHWC.new_empty(b, ceil_div(h, self.layer.rate), ceil_div(w, self.layer.rate), self.layer.channels)
        self._scale(self._library.down_sample, coarse, fine_BHWC, weight_NNCO, torch.get_num_threads())
        return coarse

    def add_up_sampled(self, fine_BHWC: Tensor, coarse_BHWO: Tensor, weight_ONNC: Tensor) -> None:
        """Add U x to ``fine_BHWC`` in place; the weights' axes are coarse channels, fine cells, fine channels."""
        self._scale(self._library.add_up_sampled, coarse_BHWO, fine_BHWC, weight_ONNC, torch.get_num_threads())

    def weight_gradient(self, coarse_BHWO: Tensor, fine_BHWC: Tensor) -> Tensor:
        """Return the gradient by the weight of sum(coarse * D fine), which is sum(fine * U coarse): (N, N, C, O)."""
        c, rate = self.layer.channels, self.layer.rate
        threads = min(torch.get_num_threads(), coarse_BHWO.shape[0] * coarse_BHWO.shape[1])
        sums = fine_BHWC.new_zeros(threads, rate, rate, c, c, dtype=wide_dtype(fine_BHWC.dtype))
        self._scale(self._library.weight_gradient, coarse_BHWO, fine_BHWC, sums, threads)
        return sums.sum(0)

    def _scale(
        self, function: Callable[..., object], coarse: Tensor, fine: Tensor, weight: Tensor, threads: int
    ) -> None:
        grids = _Scales(coarse.data_ptr(), fine.data_ptr(), *fine.shape[:3])
        function(ctypes.byref(grids), ctypes.c_void_p(weight.data_ptr()), threads)


def forward(library: Library, x_BHWC: Tensor, weights: Weights, sizes: Sizes) -> Levels:
    """Return X_l and R_l; see :func:`mano.tiled.tiled_multipole.tiled_multipole`."""
    weights = weights.to(wide_dtype(x_BHWC.dtype))
    down, up, level_weights = weights[3:6]
    down_NNCO, up_ONNC = down.permute(2, 3, 1, 0).contiguous(), up.permute(0, 2, 3, 1).contiguous()
    xs = [x_BHWC.contiguous()]
    for _ in level_weights:
        xs.append(library.down_sample(xs[-1], down_NNCO))
    results = library.attention(xs, weights, sizes.eps)
    for l, level_weight in reversed(list(enumerate(level_weights.to(up.dtype)))):
        library.add_up_sampled(results[l], results[l + 1], up_ONNC * level_weight)
    return Levels(xs, results, empty_probabilities(xs, sizes, False))


def backward(library: Library, grad_BHWC: Tensor, levels: Levels, weights: Weights, sizes: Sizes) -> list[Tensor]:
    """Return the gradients; see :func:`mano.tiled.tiled_multipole.tiled_multipole_backward`."""
    given, weights = weights, weights.to(wide_dtype(grad_BHWC.dtype))
    down, up, level_weights = weights[3:6]
    xs, coarse = ([x.contiguous() for x in tensors] for tensors in (levels.xs, levels.results[1:]))
    down_ONNC, up_NNCO = down.permute(0, 2, 3, 1).contiguous(), up.permute(2, 3, 1, 0).contiguous()
    grads, d_down, d_up = [grad_BHWC.contiguous()], torch.zeros_like(up_NNCO), torch.zeros_like(up_NNCO)
    d_level_weights = torch.zeros_like(level_weights)
    for l, level_weight in enumerate(level_weights.to(up.dtype)):
        d_scaled = library.weight_gradient(coarse[l], grads[l])
        d_level_weights[l] = (d_scaled * up_NNCO).sum()
        d_up += d_scaled * level_weight
        grads.append(library.down_sample(grads[l], up_NNCO * level_weight))
    results, d_projections, d_norms = library.attention_backward(xs, grads, weights, sizes.eps)
    for l in reversed(range(len(level_weights))):
        d_down += library.weight_gradient(results[l + 1], xs[l])
        library.add_up_sampled(results[l], results[l + 1], down_ONNC)
    scales = (d.permute(3, 2, 0, 1).contiguous() for d in (d_down, d_up))
    d_weights = *d_projections, *scales, d_level_weights, *d_norms
    return [results[0], *(d.to(w.dtype) for d, w in zip(d_weights, given.pack(), strict=True))]


@functools.cache
def library(layer: LayerSizes) -> Library | None:
    """Return the C++ for a layer, built if needed; None if it does not support the layer or cannot be built."""
    if not layer.served():
        return None
    found = built("multipole attention", "mano", layer.sources, layer.macros())
    return None if found is None else Library(layer, found)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def serves(dtype: torch.dtype, *sizes: int) -> bool:
    """Tell whether there is C++ for a layer: dtype and numbers of :class:`LayerSizes`, which compiled graphs know."""
    return library(LayerSizes(dtype, *sizes)) is not None


def library_for(x_BHWC: Tensor, weights: Weights, sizes: Sizes) -> Library | None:
    """Return the C++ for a layer if there is any and the shapes of its tensors match."""
    qkv, down = weights.qkv, weights.down
    head_dim, norms = len(qkv) // 3 // sizes.heads, len(weights.norms) // 2
    windows = sizes.window_size, sizes.stride
    layer = LayerSizes(x_BHWC.dtype, x_BHWC.shape[-1], sizes.heads, head_dim, *windows, down.shape[-1], norms)
    c, f, rate = layer.channels, layer.heads * head_dim, layer.rate
    shapes = [(3 * f, c), (c, f), (c,), (c, c, rate, rate), (c, c, rate, rate), *[(c,)] * (2 * norms)]
    tensors = [*weights[:5], *weights.norms]
    # C++ would read mismatched tensors out of bounds; torch's operations raise an error.
    dtypes = x_BHWC.dtype, wide_dtype(x_BHWC.dtype)
    fit = len(tensors) == len(shapes) and all(
        (w.shape, w.device) == (shape, x_BHWC.device) and w.dtype in dtypes
        for w, shape in zip(tensors, shapes, strict=True)
    )
    return library(layer) if fit and 0 not in x_BHWC.shape[1:3] else None
