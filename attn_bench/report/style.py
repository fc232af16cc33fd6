"""What all figures share: colours and markers of models, axes, and how a figure becomes files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from attn_bench.files import atomic_write
from attn_bench.report.summary import Summary
from attn_bench.report.text import distinct, for_figure, plain

DPI = 150
MARKERS = "osD^vp<>h*PX"
REFERENCE_COLOUR = "0.45"


@dataclass(frozen=True)
class Look:
    """How a model is drawn, in every figure of a report."""

    label: str
    colour: tuple[float, float, float]
    marker: str


def looks(summary: Summary) -> dict[str, Look]:
    """Return the look of each model: safe for the colour-blind, and told apart by the marker as well."""
    palette = sns.color_palette("colorblind")
    labels = distinct(summary.models)
    return {
        model: Look(for_figure(labels[model]), palette[i % len(palette)], MARKERS[i % len(MARKERS)])
        for i, model in enumerate(summary.models)
    }


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report; the caller's own settings of matplotlib come back afterwards."""
    settings: Any = {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("notebook", font_scale=0.9),
        "font.family": ["DejaVu Sans"],
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
        # A label may hold characters that the font has not.
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


def legend(figure: Figure, drawn: Sequence[Look], extra: Mapping[str, Line2D] | None = None) -> None:
    """Put the legend beside the axes, models in their order."""
    handles = [Line2D([], [], color=look.colour, marker=look.marker, markeredgecolor="white") for look in drawn]
    labels = [look.label for look in drawn]
    for label, handle in (extra or {}).items():
        handles.append(handle)
        labels.append(label)
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=2.2)


def legend_width(drawn: Iterable[Look]) -> float:
    """Inches that a legend of these takes."""
    return 0.8 + 0.08 * max(24, *(len(look.label) for look in drawn))


def heading(figure: Figure, summary: Summary, what: str) -> None:
    """Say above a figure what it shows of which task, and at which resolution where there is but one."""
    title = f"{plain(summary.settings.get('task', 'results'), 60)}: {what}"
    if len(summary.resolutions) == 1:
        title += f", {'length' if summary.sequence else 'resolution'} {summary.resolutions[0]}"
    figure.suptitle(for_figure(title), x=0.01, ha="left", fontsize=11)


def resolution_axis(axes: Axes, resolutions: Sequence[int], label: str) -> None:
    """Logarithmic, with a tick at each resolution and nowhere else."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(resolutions)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    spread = max(resolutions) / min(resolutions)
    margin = max(1.12, spread**0.06) if spread > 1 else 1.5
    axes.set_xlim(min(resolutions) / margin, max(resolutions) * margin)
    axes.set_xlabel(label)
    if len(resolutions) > 8:
        axes.tick_params(axis="x", rotation=45)


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic with plain numbers at its ticks, however narrow its range."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = min(values), max(values)
    margin = max(1.15 if high / low > 1.5 else 1.4, (high / low) ** 0.08)
    low, high = low / margin, high * margin
    if which == "y":
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    else:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    spread = high / low
    if spread < 5:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        digits = (1, 2, 3, 5, 7) if spread < 20 else (1, 2, 5) if spread < 300 else (1, 3) if spread < 30_000 else (1,)
        axis.set_major_locator(LogLocator(subs=digits, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_locator(NullLocator())


def tick(value: float) -> str:
    """Return a number short enough for neighbours on an axis not to meet: 5000, 20k, 1M."""
    for factor, prefix in ((1e6, "M"), (1e3, "k")):
        if value >= max(factor, 1e4):
            return f"{value / factor:g}{prefix}"
    return f"{value:g}"


def value_axis(axes: Axes, values: Sequence[float], *, higher: bool) -> None:
    """Scale the y axis of a metric: errors from 0 or logarithmic where they span much, scores not squashed."""
    low, high = min(values), max(values)
    if not higher and low > 0 and high / low > 6:
        log_axis(axes, "y", values)
    elif low >= 0 and (not higher or low < 0.5 * high):
        axes.set_ylim(0, 1.1 * high if high > 0 else 1)
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high)
        axes.set_ylim(low - margin, high + margin)
