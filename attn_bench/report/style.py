"""What all figures share: colours and markers of models, axes, and how a figure becomes files."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle

from attn_bench.files import atomic_write
from attn_bench.format import for_figure, plain
from attn_bench.report.summary import Summary

DPI = 150
FONT = "DejaVu Sans"
MARKERS = "osD^vp<>h*PX"
REFERENCE_COLOUR = "0.45"
# Inches: a line of a legend, what is above and below its lines, and a figure as tall as a page shows at once.
LEGEND_ROW, LEGEND_EDGE, LEGEND_TALLEST = 0.21, 0.5, 6.5
ROW_CHARACTERS = 16


@dataclass(frozen=True)
class Look:
    """How a model is drawn, in every figure of a report."""

    name: str
    colour: tuple[float, float, float]
    marker: str

    @property
    def label(self) -> str:
        """The name as matplotlib draws it."""
        return drawable(self.name)

    @property
    def row(self) -> str:
        """The name in short lines."""
        return folded(self.name, ROW_CHARACTERS)


def looks(summary: Summary) -> dict[str, Look]:
    """Return the look of each model: safe for the colour-blind, and told apart by the marker as well."""
    palette = sns.color_palette("colorblind")
    # Colours and markers are all paired before a pair comes again: both numbers are even, so after one round of their
    # least common multiple the markers move on by one.
    rounds = math.lcm(len(palette), len(MARKERS))
    return {
        model: Look(summary.names[model], palette[i % len(palette)], MARKERS[(i + i // rounds) % len(MARKERS)])
        for i, model in enumerate(summary.models)
    }


def marks(summary: Summary) -> dict[str, str]:
    """Return colour and marker of each model as SVG, for tables."""
    found = {}
    for model, look in looks(summary).items():
        style = MarkerStyle(look.marker)
        path = style.get_path().transformed(style.get_transform())
        # Curves become short lines; SVG counts downwards.
        polygons = [np.asarray(polygon) for polygon in path.to_polygons(width=0, height=0)]
        shapes = ["M" + "L".join(f"{x:.2f} {-y:.2f}" for x, y in polygon) + "Z" for polygon in polygons]
        found[model] = (
            f'<svg class="mark" viewBox="-0.75 -0.75 1.5 1.5" width="12" height="12" aria-hidden="true">'
            f'<path d="{"".join(shapes)}" fill="{to_hex(look.colour)}"/></svg>'
        )
    return found


def drawable(text: str) -> str:
    """Return text as matplotlib draws it: nothing in it is markup, and characters without a glyph are written out."""
    glyphs = _glyphs()
    return for_figure("".join(c if ord(c) in glyphs else c.encode("unicode_escape").decode() for c in text))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def folded(text: str, width: int) -> str:
    """Return text as matplotlib draws it, in lines of at most ``width`` characters."""
    return "\n".join(map(drawable, textwrap.wrap(text, width)))


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report; the caller's own settings of matplotlib come back afterwards."""
    settings: Any = {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("notebook", font_scale=0.9),
        "font.family": [FONT],
        "axes.edgecolor": "0.4",
        "axes.titleweight": "bold",
        "axes.titlesize": 11,
        "grid.color": "0.9",
        "lines.markersize": 7,
        "lines.markeredgewidth": 0.8,
        "svg.hashsalt": "attn-bench",
        "text.usetex": False,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A caption may hold characters that the font has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG and return the paths; equal figures make equal files."""
    paths = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = folder / f"{name}.{suffix}"
        with atomic_write(path) as file:
            figure.savefig(file, format=suffix, dpi=DPI, metadata=metadata)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Legend:
    """The legend beside the axes: models in their order, then ``extra``.

    Attributes:
        height: inches that the figure needs at least.
        width: inches that the legend takes beside the axes.
    """

    drawn: Sequence[Look]
    extra: Mapping[str, Line2D]
    least: float

    @property
    def _rows(self) -> int:
        return len(self.drawn) + sum(1 + label.count("\n") for label in self.extra)

    @property
    def height(self) -> float:
        return max(self.least, min(LEGEND_EDGE + LEGEND_ROW * self._rows, LEGEND_TALLEST))

    @property
    def _columns(self) -> int:
        return -(-self._rows // int((self.height - LEGEND_EDGE) / LEGEND_ROW)) if self._rows else 1

    @property
    def width(self) -> float:
        return self._columns * (0.8 + 0.08 * max(24, *(len(look.label) for look in self.drawn), 0))

    def draw(self, figure: Figure) -> None:
        """Put the legend into the figure."""
        handles = [
            Line2D([], [], color=look.colour, marker=look.marker, markeredgecolor="white") for look in self.drawn
        ]
        labels = [look.label for look in self.drawn]
        if handles or self.extra:
            figure.legend(
                [*handles, *self.extra.values()], [*labels, *self.extra], loc="outside right upper", frameon=False,
                handlelength=2.2, ncols=self._columns,
            )  # fmt: skip


def heading(figure: Figure, summary: Summary, what: str) -> None:
    """Say above a figure what it shows of which task, and at which resolution where there is but one."""
    title = f"{plain(summary.settings.get('task', 'results'), 60)}: {what}"
    if len(summary.resolutions) == 1:
        title += f", {'length' if summary.sequence else 'resolution'} {summary.resolutions[0]}"
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=11)
