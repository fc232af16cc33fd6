"""Checks shared by several models; does not import torch."""

from __future__ import annotations

from attn_bench.plugin import OptionError


def check_positive(**values: int) -> None:
    """Raise OptionError, naming the argument, unless every value is >= 1."""
    for name, value in values.items():
        if value < 1:
            raise OptionError(f"{name} is {value}; it must be >= 1")


def check_heads(dim: int, heads: int) -> None:
    """Raise OptionError unless ``heads`` divides ``dim``."""
    check_positive(dim=dim, heads=heads)
    if dim % heads:
        raise OptionError(f"heads is {heads}; it must divide dim ({dim})")


def not_two_axes(name: str, grid: tuple[int, ...]) -> str | None:
    """Return a reason if a grid does not have two axes, which ``name`` needs; else None."""
    return None if len(grid) == 2 else f"{name} serves grids of two axes; this one is {grid}"


def exceeds_grid(name: str, size: int, grid: tuple[int, ...]) -> str | None:
    """Say that the option ``name``, a side in tokens, is larger than every axis of a grid of tokens, or return None.

    A larger window sees no more than one of the grid's size, but takes memory for tokens that do not exist.
    """
    if size > max(grid):
        tokens = " x ".join(map(str, grid))
        return f"{name} {size} is larger than the grid of tokens, {tokens}; it must be <= {max(grid)}"
    return None


def patch_exceeds_grid(patch_size: int, grid: tuple[int, ...]) -> str | None:
    """Return a reason if a patch is larger than the grid; else None."""
    if patch_size > min(grid):
        size = " x ".join(map(str, grid))
        return f"patch_size {patch_size} is larger than the grid, {size}; it must be <= {min(grid)}"
    return None
