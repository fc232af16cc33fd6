"""The common style of figures: colors and markers of models, axes, and saving to files."""

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
REFERENCE_COLOR = "0.45"
# Inches: a line of a legend, the space above and below its lines, and the tallest figure that fits on a screen.
LEGEND_ROW, LEGEND_EDGE, LEGEND_TALLEST = 0.21, 0.5, 6.5
ROW_CHARACTERS = 16


@dataclass(frozen=True)
class Look:
    """How a model is drawn, in every figure of a report."""

    name: str
    color: tuple[float, float, float]
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
    """Return the look of each model: safe for color-blind readers, and distinguished by the marker as well."""
    palette = sns.color_palette("colorblind")
    # All pairs of color and marker are used before one is repeated: both numbers are even, so after each least common
    # multiple the markers shift by one.
    rounds = math.lcm(len(palette), len(MARKERS))
    return {
        model: Look(summary.names[model], palette[i % len(palette)], MARKERS[(i + i // rounds) % len(MARKERS)])
        for i, model in enumerate(summary.models)
    }


def marks(summary: Summary) -> dict[str, str]:
    """Return color and marker of each model as SVG, for tables."""
    found = {}
    for model, look in looks(summary).items():
        style = MarkerStyle(look.marker)
        path = style.get_path().transformed(style.get_transform())
        # Curves become short lines; the y axis of SVG points down.
        polygons = [np.asarray(polygon) for polygon in path.to_polygons(width=0, height=0)]
        shapes = ["M" + "L".join(f"{x:.2f} {-y:.2f}" for x, y in polygon) + "Z" for polygon in polygons]
        found[model] = (
            f'<svg class="mark" viewBox="-0.75 -0.75 1.5 1.5" width="12" height="12" aria-hidden="true">'
            f'<path d="{"".join(shapes)}" fill="{to_hex(look.color)}"/></svg>'
        )
    return found


def drawable(text: str) -> str:
    """Return text for matplotlib: markup is escaped, and characters without a glyph are written out."""
    glyphs = _glyphs()
    return for_figure("".join(c if ord(c) in glyphs else c.encode("unicode_escape").decode() for c in text))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def folded(text: str, width: int) -> str:
    """Return text for matplotlib, in lines of at most ``width`` characters."""
    return "\n".join(map(drawable, textwrap.wrap(text, width)))


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report; the caller's matplotlib settings are restored afterwards."""
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
        # A caption may contain characters that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG and return the paths; equal figures give identical files."""
    # Once for both: the layout takes longer than the drawing.
    figure.set_dpi(DPI)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
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
        height: minimum height of the figure in inches.
        width: width of the legend beside the axes in inches.
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
        handles = [Line2D([], [], color=look.color, marker=look.marker, markeredgecolor="white") for look in self.drawn]
        labels = [look.label for look in self.drawn]
        if handles or self.extra:
            figure.legend(
                [*handles, *self.extra.values()], [*labels, *self.extra], loc="outside right upper", frameon=False,
                handlelength=2.2, ncols=self._columns,
            )  # fmt: skip


def heading(figure: Figure, summary: Summary, what: str) -> None:
    """Title a figure with what it shows and the task, and with the resolution if there is only one."""
    title = f"{plain(summary.task, 60)}: {what}"
    if len(summary.resolutions) == 1:
        title += f", {summary.size} {summary.resolutions[0]}"
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=11)
