"""Data exchanged by the implementations of :mod:`mano.tiled.tiled_multipole`: weights, sizes, tensors of all levels.

A torch operator takes and returns lists of tensors; each class here defines the layout of such a list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attn_bench.nn.precision import wide_dtype
from mano.levels import window_counts


class Weights(NamedTuple):
    """The tensors of a layer.

    Attributes:
        qkv: weights of queries, keys and values, (3F, C).
        out: weights of the output projection, (C, F).
        bias: of the output projection, (C,).
        down: weights of D, (C, C, rate, rate).
        up: weights of U, (C, C, rate, rate).
        level_weights: w_0, w_1, ..., one fewer than there are levels.
        norms: weight and bias of one LayerNorm or of two, applied one after the other; (C,) each.
    """

    qkv: Tensor
    out: Tensor
    bias: Tensor
    down: Tensor
    up: Tensor
    level_weights: Tensor
    norms: list[Tensor]

    def pack(self) -> list[Tensor]:
        """Return all of them, in this order."""
        return [self.qkv, self.out, self.bias, self.down, self.up, self.level_weights, *self.norms]

    def to(self, dtype: torch.dtype) -> Weights:
        """Return all of them in ``dtype``."""
        return Weights.unpack([tensor.to(dtype) for tensor in self.pack()])

    @classmethod
    def unpack(cls, tensors: Sequence[Tensor]) -> Weights:
        """Undo :meth:`pack`."""
        qkv, out, bias, down, up, level_weights, *norms = tensors
        return cls(qkv, out, bias, down, up, level_weights, norms)


class Sizes(NamedTuple):
    """Attention heads, side of a window and distance between windows in cells, and the epsilon of the LayerNorms."""

    heads: int
    window_size: int
    stride: int
    eps: float


class Levels(NamedTuple):
    """X_0, X_1, ..., then R_0, R_1, ..., and the attention probabilities, (A, P, P, windows), or none.

    An operator returns one list of tensors, none of them its input: R_0, X_1, X_2, ..., R_1, R_2, ..., probabilities.
    """

    xs: list[Tensor]
    results: list[Tensor]
    probabilities: Tensor

    def pack(self) -> list[Tensor]:
        """Return the list that the operator returns."""
        return [self.results[0], *self.xs[1:], *self.results[1:], self.probabilities]

    @classmethod
    def unpack(cls, x_BHWC: Tensor, tensors: Sequence[Tensor]) -> Levels:
        """Return the levels from the operator's result for ``x_BHWC``."""
        result, *rest, probabilities = tensors
        coarse = len(rest) // 2
        return cls([x_BHWC, *rest[:coarse]], [result, *rest[coarse:]], probabilities)


def count_windows(xs: Sequence[Tensor], window_size: int, stride: int) -> int:
    """Return the number of windows of all samples and levels; ``xs`` are (B, H, W, C)."""
    return sum(len(x) * math.prod(window_counts((x.shape[1], x.shape[2]), window_size, stride)) for x in xs)


def empty_probabilities(xs: Sequence[Tensor], sizes: Sizes, stored: bool) -> Tensor:
    """Return memory for the attention probabilities of all windows, (A, P, P, windows); empty unless ``stored``."""
    cells = sizes.window_size**2
    windows = count_windows(xs, sizes.window_size, sizes.stride)
    shape = (sizes.heads, cells, cells, windows) if stored else (0,)
    return xs[0].new_empty(shape, dtype=wide_dtype(xs[0].dtype))
