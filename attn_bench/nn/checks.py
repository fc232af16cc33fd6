"""Checks that several models share; imports no torch."""

from __future__ import annotations


def patch_exceeds_grid(patch_size: int, grid: tuple[int, ...]) -> str | None:
    """Say that a patch is larger than the grid, or return None."""
    if patch_size > min(grid):
        size = " x ".join(map(str, grid))
        return f"patch_size {patch_size} is larger than the grid, {size}; it must be <= {min(grid)}"
    return None
