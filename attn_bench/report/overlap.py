"""Overlaps in a figure: points, lines and texts that would hide each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

# Points: width of a line, size of a marker, how much larger the next one around it is, largest marker. Dashes are in
# line widths.
LINE, MARKER, RING, MOST_RINGS = 1.5, 7, 5, 20
DASH = 4


def together(
    axes: Axes, points: Mapping[tuple[str, int], tuple[float, float]], close: float
) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Find points of one resolution that hide each other: no further apart than ``close``, as a share of the axes.

    Args:
        points: by model and resolution, in the order in which they are drawn; the scales of ``axes`` are set.

    Returns:
        The number of the group of points that each is in, its place there, and the size of the group.
    """
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    to_axes = axes.transScale + axes.transLimits
    places = {key: to_axes.transform(point) for key, point in points.items()}
    left, groups = list(places), 0
    while left:
        x, y = places[left[0]]
        group = [
            key for key in left
            if key[1] == left[0][1] and abs(places[key][0] - x) <= close and abs(places[key][1] - y) <= close
        ]  # fmt: skip
        left = [key for key in left if key not in group]
        found |= {key: (groups, i, len(group)) for i, key in enumerate(group)}
        groups += 1
    return found


def same_lines(near: Mapping[tuple[str, int], tuple[int, int, int]]) -> dict[str, list[str]]:
    """Return, for each model with a point (see :func:`together`), all models whose lines hide each other."""
    groups: dict[str, tuple[int, ...]] = {}
    for (model, _), (group, _, _) in near.items():
        groups[model] = (*groups.get(model, ()), group)
    return {model: [other for other, its in groups.items() if its == mine] for model, mine in groups.items()}


def dashes(model: str, alike: Sequence[str]) -> Any:
    """Return a dashed line style in which lines that hide each other alternate."""
    place = alike.index(model)
    return (place * DASH, (DASH, DASH * (len(alike) - 1))) if place else "-"


def ring_size(place: int, of: int) -> float:
    """Return the size of marker number ``place`` out of ``of`` at one spot."""
    return MARKER + min(RING, MOST_RINGS / of) * (of - 1 - place)


def apart(places: Iterable[tuple[float, float]], width: float, height: float) -> list[bool]:
    """Tell for each place, in inches, whether a text of that size fits there without touching those before it."""
    taken: list[tuple[float, float]] = []
    fits = []
    for x, y in places:
        free = all(abs(x - left) >= width or abs(y - bottom) >= height for left, bottom in taken)
        taken += [(x, y)] if free else []
        fits.append(free)
    return fits
