"""The levels of the pyramid and their windows, as numbers. Imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

Grid = tuple[int, int]
LevelWeights = Literal["harmonic", "sum", "learned"]
Backend = Literal["auto", "cpp", "torch", "triton", "reference"]


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return (a + b - 1) // b


def level_grids(grid: Grid, window_size: int, rate: int, levels: int | None = None) -> tuple[Grid, ...]:
    """Return the grid of every level, finest first.

    A level is followed by one ``rate`` times coarser (rounded up) while it holds more than one window; with
    ``rate = window_size = 2`` that is 4 levels at 16 x 16, 5 at 32 and 6 at 64. ``levels`` is an upper bound: there
    is nothing left to attend to beyond the grid that is one window, so a bound above it changes nothing.
    """
    grids = [grid]
    while max(grids[-1]) > window_size and len(grids) != levels:
        h, w = grids[-1]
        grids.append((ceil_div(h, rate), ceil_div(w, rate)))
    return tuple(grids)


def window_counts(grid: Grid, window_size: int, stride: int) -> Grid:
    """Return how many windows lie along each axis: the fewest that cover every cell (``stride <= window_size``)."""
    h, w = (max(0, ceil_div(n - window_size, stride)) + 1 for n in grid)
    return h, w


def check(
    dim: int,
    heads: int,
    head_dim: int | None,
    window_size: int,
    stride: int,
    rate: int,
    levels: int | None,
    level_weights: str,
    dropout: float,
    backend: str,
) -> None:
    """Raise ValueError, with a message of one line, for settings of :class:`MultipoleAttention` that cannot work."""
    sizes = {"dim": dim, "heads": heads, "head_dim": head_dim, "window_size": window_size, "levels": levels}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if head_dim is None and dim % heads:
        raise ValueError(f"dim {dim} is not divisible by heads {heads}; change one of them or set head_dim")
    if not 1 <= stride <= window_size:
        raise ValueError(
            f"stride is {stride}; it must be from 1 to window_size ({window_size}), or cells would be missed"
        )
    if rate < 2:
        raise ValueError(f"rate is {rate}; it must be at least 2")
    for name, value, allowed in (("level_weights", level_weights, LevelWeights), ("backend", backend, Backend)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(get_args(allowed))}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and less than 1")
