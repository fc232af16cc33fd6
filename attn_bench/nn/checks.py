"""Checks of option values that several baselines share; imports no torch."""

from __future__ import annotations

from attn_bench.plugin import OptionError, Problem


def check_positive(**values: float) -> None:
    """Raise OptionError, naming the option, unless every value is above zero."""
    for name, value in values.items():
        if value <= 0:
            raise OptionError(f"{name} is {value}; it must be positive")


def check_dropout(**values: float) -> None:
    """Raise OptionError, naming the option, unless every value is a probability below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise OptionError(f"{name} is {value}; it must be at least 0 and below 1")


def check_heads(dim: int, heads: int) -> None:
    """Raise OptionError unless ``heads`` divides ``dim``."""
    check_positive(dim=dim, heads=heads)
    if dim % heads:
        raise OptionError(f"heads is {heads}; it must divide dim ({dim})")


def check_hidden(dim: int, mlp_ratio: float) -> None:
    """Raise OptionError unless the feed-forward networks have at least one hidden channel."""
    if int(dim * mlp_ratio) < 1:
        raise OptionError(f"mlp_ratio is {mlp_ratio}; times dim ({dim}) it must be at least 1")


def patch_of(problem: Problem, given: int | None, *, on_images: int, on_fields: int) -> int:
    """Return the side of a patch: what is given, or the default of the problem's kind."""
    if given is not None:
        return given
    return on_fields if problem.kind == "field" else on_images


def patch_exceeds_grid(patch_size: int, grid: tuple[int, ...]) -> str | None:
    """Say that a patch is larger than the grid, or return None."""
    if patch_size > min(grid):
        size = " x ".join(map(str, grid))
        return f"patch_size {patch_size} is larger than the grid, {size}; take one of at most {min(grid)}"
    return None
