"""Checks of fields that are read from files, and words for their grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attn_bench.plugin import DataError

if TYPE_CHECKING:
    import numpy as np

# Norms whose squares fit in single precision, with room for a sum over the points of a large grid.
SMALLEST_NORM, LARGEST_NORM = 1e-16, 1e17


def check_norms(targets: np.ndarray, refusal: Callable[[str, str, int, int], str]) -> None:
    """Refuse targets, (N, ...), of which one is zero everywhere, or too small or large for its relative error.

    Args:
        refusal: returns the message, given what is wrong with a target, what to do, in how many samples it is so, and
            the first of them.

    Raises:
        DataError: there is such a target.
    """
    import numpy as np

    flat = targets.reshape(len(targets), -1)
    norms = np.sqrt(np.einsum("np,np->n", flat, flat, dtype=np.float64))
    for wrong, what, remedy in (
        (norms == 0, "is zero everywhere", "so there is no relative error; take these samples out"),
        (
            (norms < SMALLEST_NORM) | (norms > LARGEST_NORM),
            "is too small or too large for errors in single precision",
            "scale it, e.g. by another unit",
        ),
    ):
        if wrong.any():
            raise DataError(refusal(what, remedy, int(wrong.sum()), int(np.flatnonzero(wrong)[0])))


def grids_in_words(grids: Sequence[tuple[int, ...]]) -> str:
    """Return sizes as ``16 x 64, 32 x 128``, those of one axis as ``256, 1024 points``."""
    sizes = ", ".join(" x ".join(map(str, grid)) for grid in grids)
    return sizes if len(grids[0]) > 1 else f"{sizes} points"
