"""What would hide each other in a figure: points, lines, and texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from attn_bench.report.summary import Entry

# Points: of a marker, how much larger the next one around it is, and how much larger at most; dashes in line widths.
MARKER, RING, MOST_RINGS = 7, 5, 20
DASH = 4


def together(
    axes: Axes, entries: Sequence[Entry], column: str, height: float
) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Find points that hide each other, which are then drawn inside each other, the first around the next.

    Returns, by model and resolution: the number of the group of points, the place in it, and its size.
    """
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    to_axes = axes.transScale + axes.transLimits
    close, groups = MARKER / 72 / height / 2, 0
    for resolution in dict.fromkeys(entry.resolution for entry in entries):
        places = {
            entry.model: float(to_axes.transform((resolution, entry.values[column].mean))[1])
            for entry in entries
            if entry.resolution == resolution
        }
        order = sorted(places, key=lambda model: places[model])
        starts = [i for i, model in enumerate(order) if not i or places[model] - places[order[i - 1]] > close]
        for start, end in pairwise([*starts, len(order)]):
            group = [model for model in places if model in order[start:end]]
            found |= {(model, resolution): (groups, i, len(group)) for i, model in enumerate(group)}
            groups += 1
    return found


def same_lines(
    drawn: Mapping[str, Sequence[Entry]], near: Mapping[tuple[str, int], tuple[int, int, int]]
) -> dict[str, list[str]]:
    """Return, for each model, those whose lines hide each other, itself among them."""
    lines: dict[tuple[int, ...], list[str]] = {}
    for model, entries in drawn.items():
        lines.setdefault(tuple(near[model, entry.resolution][0] for entry in entries), []).append(model)
    return {model: models for models in lines.values() for model in models}


def dashes(model: str, alike: Sequence[str]) -> Any:
    """Return a line style in which lines that hide each other take turns."""
    place = alike.index(model)
    return (place * DASH, (DASH, DASH * (len(alike) - 1))) if place else "-"


def ring_size(place: int, of: int) -> float:
    """Return the size of the marker that is number ``place`` of so many on one spot."""
    return MARKER + min(RING, MOST_RINGS / of) * (of - 1 - place)


def apart(places: Iterable[tuple[float, float]], width: float, height: float) -> list[bool]:
    """Tell for each place, in inches, whether a text of that size fits there beside those before it."""
    taken: list[tuple[float, float]] = []
    fits = []
    for x, y in places:
        free = all(abs(x - left) >= width or abs(y - bottom) >= height for left, bottom in taken)
        taken += [(x, y)] if free else []
        fits.append(free)
    return fits
