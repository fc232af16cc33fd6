"""The points of a resolution, and the resolutions that are restrictions of one fine grid.

``fno``: R nodes, both ends included; the fine grid has ``fine`` nodes and (R - 1) divides (fine - 1).
``dyadic``: the points i / R, left end included, right end not; the fine grid has ``fine`` intervals and R divides fine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from attn_bench.plugin import OptionError

Layout = Literal["fno", "dyadic"]
LAYOUTS: tuple[Layout, ...] = ("dyadic", "fno")

SMALLEST = 4
LONGEST_STRIDE = 4096
FNO_FINE = 421
LARGEST_FINE = 4096
LARGEST_COMMON = 1024

Array = TypeVar("Array")


def nodes(layout: Layout, fine: int) -> int:
    """Number of nodes per axis of the fine grid, both ends included."""
    return fine if layout == "fno" else fine + 1


def fits(layout: Layout, fine: int, resolution: int) -> bool:
    """Tell whether the points of ``resolution`` are points of the fine grid."""
    if not SMALLEST <= resolution <= fine:
        return False
    return (fine - 1) % (resolution - 1) == 0 if layout == "fno" else fine % resolution == 0


def restrict(fields: Array, layout: Layout, fine: int, resolution: int) -> Array:
    """Take the points of ``resolution`` from (..., n, n) at the nodes of the fine grid."""
    if not fits(layout, fine, resolution):
        raise ValueError(f"resolution {resolution} is not a restriction of {layout} {fine}")
    if layout == "fno":
        step, stop = (fine - 1) // (resolution - 1), fine
    else:
        step, stop = fine // resolution, fine
    return fields[..., :stop:step, :stop:step]  # type: ignore[index]


def choose(
    resolutions: Sequence[int], layout: Layout | Literal["auto"] = "auto", fine: int | None = None
) -> tuple[Layout, int]:
    """Return the layout and fine grid whose restrictions ``resolutions`` are; raises OptionError if there is none."""
    check_sizes(resolutions)
    if fine is not None and not SMALLEST <= fine <= LARGEST_FINE:
        raise OptionError(f"darcy.fine must be between {SMALLEST} and {LARGEST_FINE} (given: {fine})")
    for candidate in _candidates(resolutions, layout):
        size = fine or _fine(candidate, resolutions, limited=layout == "auto")
        if size is not None and all(fits(candidate, size, resolution) for resolution in resolutions):
            return candidate, size
    raise OptionError(_no_grid(resolutions, layout, fine))


def check_sizes(resolutions: Iterable[int]) -> None:
    """Raise OptionError unless every resolution is large enough."""
    for resolution in resolutions:
        if resolution < SMALLEST:
            raise OptionError(f"darcy needs a resolution >= {SMALLEST} (given: {resolution})")


def choose_for_file(
    grid: tuple[int, int], resolutions: Sequence[int], layout: Layout | Literal["auto"], name: str
) -> Layout:
    """Return the layout in which ``resolutions`` are strided restrictions of a file's grid.

    A resolution is a size of the first axis; the second is restricted with the same stride.

    Raises:
        OptionError: there is none; the message names the available resolutions.
    """
    check_sizes(resolutions)
    candidates = LAYOUTS if layout == "auto" else (layout,)
    for candidate in candidates:
        if all(file_stride(grid, resolution, candidate) for resolution in resolutions):
            return candidate
    single = [r for r in resolutions if not any(file_stride(grid, r, candidate) for candidate in candidates)]
    possible = {candidate: _given_by(grid, candidate) for candidate in candidates}
    offers = " or ".join(
        f"{', '.join(map(str, values))}{f' (layout {candidate})' if len(values) > 1 else ''}"
        for candidate, values in possible.items()
        if len(values) > (1 if len(candidates) > 1 and candidate == "fno" else 0)
    )
    raise OptionError(
        f"{name} has a grid of {grid[0]} x {grid[1]}; it cannot give resolution {_words(single or resolutions)}. "
        f"Restricted to every n-th point it gives {offers or 'none'}: set --resolutions to these"
    )


def _given_by(grid: tuple[int, int], layout: Layout) -> list[int]:
    """Return the resolutions that a file's grid gives, finest first; strides are bounded, as the grid may be huge."""
    less = 1 if layout == "fno" else 0
    strides = range(1, min((grid[0] - less) // (SMALLEST - less), LONGEST_STRIDE) + 1)
    found = dict.fromkeys((grid[0] - less) // stride + less for stride in strides)
    return [resolution for resolution in found if file_stride(grid, resolution, layout)]


def file_stride(grid: tuple[int, int], resolution: int, layout: Layout) -> int | None:
    """Return the stride from a file's grid to ``resolution``, or None if there is none."""
    less = 1 if layout == "fno" else 0
    if not SMALLEST <= resolution <= grid[0]:
        return None
    stride, rest = divmod(grid[0] - less, resolution - less)
    return None if rest or (grid[1] - less) % stride else stride


def _candidates(resolutions: Sequence[int], layout: Layout | Literal["auto"]) -> tuple[Layout, ...]:
    if layout != "auto":
        return (layout,)
    powers = all(resolution & (resolution - 1) == 0 for resolution in resolutions)
    return ("dyadic", "fno") if powers else ("fno", "dyadic")


def _fine(layout: Layout, resolutions: Sequence[int], limited: bool) -> int | None:
    """Choose a fine grid at least twice as fine as requested, or four times below 64."""
    if layout == "fno":
        return FNO_FINE
    least = max([128, *(4 * r if r <= 64 else max(256, 2 * r) for r in resolutions)])
    common = math.lcm(*resolutions)
    size = common * math.ceil(least / common)
    powers = all(resolution & (resolution - 1) == 0 for resolution in resolutions)
    return size if size <= (LARGEST_FINE if powers or not limited else LARGEST_COMMON) else None


def _no_grid(resolutions: Sequence[int], layout: Layout | Literal["auto"], fine: int | None) -> str:
    given = f"resolution {_words(resolutions)}"
    if fine is not None:
        offers = " or ".join(
            f"{_words([r for r in range(SMALLEST, fine + 1) if fits(candidate, fine, r)])} (layout {candidate})"
            for candidate in (LAYOUTS if layout == "auto" else (layout,))
        )
        return f"darcy.fine={fine} cannot be restricted to {given}; it can to {offers}"
    nodal = _words([r for r in range(SMALLEST, FNO_FINE + 1) if fits("fno", FNO_FINE, r)])
    if layout == "fno":
        return f"layout fno has no {given}; it has {nodal}, and others with darcy.fine"
    return (
        f"no fine grid of affordable size has {given} among its restrictions; what works are powers of two, "
        f"or {nodal}, or numbers with a common multiple up to {LARGEST_COMMON}"
    )


def _words(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
