"""What the forms of :mod:`mano.tiled.operator` hand to each other: weights, sizes, and the tensors of all levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mano.levels import window_counts
from mano.windows import wide_dtype


class Weights(NamedTuple):
    """The tensors of a layer, as :func:`mano.tiled.operator.tiled_multipole` takes them."""

    norms: list[Tensor]
    qkv: Tensor
    out: Tensor
    bias: Tensor
    down: Tensor
    up: Tensor
    level_weights: Tensor

    def flat(self) -> list[Tensor]:
        """Return all of them, in this order."""
        return [*self.norms, *self[1:]]


class Sizes(NamedTuple):
    """Attention heads, the side of a window, and the epsilon of the LayerNorms."""

    heads: int
    window: int
    eps: float


class Levels(NamedTuple):
    """X_0, X_1, ..., then R_0, R_1, ..., and the attention probabilities, (A, P, P, windows), or none.

    An operator returns one list of tensors, none of them its input: R_0, X_1, X_2, ..., R_1, R_2, ..., probabilities.
    """

    xs: list[Tensor]
    results: list[Tensor]
    kept: Tensor

    def pack(self) -> list[Tensor]:
        """Return the list that the operator returns."""
        return [self.results[0], *self.xs[1:], *self.results[1:], self.kept]

    @classmethod
    def unpack(cls, x_BHWC: Tensor, tensors: Sequence[Tensor]) -> Levels:
        """Return the levels of what the operator returned for ``x_BHWC``."""
        result, *rest, kept = tensors
        coarse = len(rest) // 2
        return cls([x_BHWC, *rest[:coarse]], [result, *rest[coarse:]], kept)


def room(xs: Sequence[Tensor], heads: int, window: int, keep: bool) -> Tensor:
    """Return room for the attention probabilities of all windows, (A, P, P, windows), or for none."""
    windows = sum(len(x) * math.prod(window_counts((x.shape[1], x.shape[2]), window, window)) for x in xs)
    shape = (heads, window**2, window**2, windows) if keep else (0,)
    return xs[0].new_empty(shape, dtype=wide_dtype(xs[0].dtype))
