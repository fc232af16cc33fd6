"""What points of a figure are about: where they are in it, and what the page says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attn_bench.format import plain, significant
from attn_bench.report.entry import Entry
from attn_bench.report.rows import interval, options_of
from attn_bench.report.summary import Summary
from attn_bench.results.quantities import Quantity, quantities

# Characters of the options of a model that are shown with a point.
OPTIONS_SHOWN = 160


@dataclass(frozen=True)
class Point:
    """A point of a figure.

    Attributes:
        x, y: where it is, as shares of the figure's width and height, from the left and the top.
        text: what it shows, in lines.
    """

    x: float
    y: float
    text: str


class Plot(Figure):
    """A figure that knows what its points are about.

    Attributes:
        said: axes, place in the units of its data, and text of each point.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.said: list[tuple[Axes, float, float, str]] = []


def say(axes: Axes, x: float, y: float, text: str) -> None:
    """Note what a point of a :class:`Plot` is about."""
    if isinstance(axes.figure, Plot):
        axes.figure.said.append((axes, float(x), float(y), text))


def points(figure: Figure) -> tuple[Point, ...]:
    """Return the points of a figure whose layout is done, except those outside their axes; none of other figures."""
    found = []
    for axes, x, y, text in figure.said if isinstance(figure, Plot) else ():
        with np.errstate(all="ignore"):
            inside = axes.transScale + axes.transLimits
            at = inside.transform((x, y))
            left, bottom = (axes.transData - figure.transFigure).transform((x, y))
        if np.isfinite([left, bottom]).all() and min(at) >= -0.01 and max(at) <= 1.01:
            found.append(Point(round(float(left), 4), round(1 - float(bottom), 4), text))
    return tuple(found)


@dataclass
class Told:
    """The texts of the points of a summary.

    Attributes:
        summary: whose points they are.
    """

    summary: Summary

    @cached_property
    def options(self) -> Mapping[str, str]:
        """The options that were set, by the label of the model."""
        return {label: plain(options, OPTIONS_SHOWN) for label, options in options_of(self.summary).items()}

    def entry(self, entry: Entry, first: Sequence[Quantity]) -> str:
        """Return a model, its options and its numbers: those of ``first``, then its error and its costs."""
        named = dict.fromkeys([*first, self.summary.primary, *quantities("figures")])
        values = [f"{each.axis}: {_value(each, entry)}" for each in named if each.column in entry.values]
        return self.lines(entry.model, f"{self.summary.size} {entry.where}", values)

    def lines(self, model: str, where: object, values: Iterable[str]) -> str:
        """Return a model with where the point is, its options, and ``values``, in a line each."""
        options = self.options.get(model, "defaults")
        return "\n".join((f"{self.summary.names[model]}, {where}", f"options: {options}", *values))


def _value(quantity: Quantity, entry: Entry) -> str:
    stat = entry.values[quantity.column]
    ends = interval(quantity, stat)
    text = f"{significant(stat.mean)}{f' ({ends})' if ends else ''} {quantity.unit}".rstrip()
    return text + entry.sign(quantity)
