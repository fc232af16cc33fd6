"""Figures of a results folder: error, latency and memory against resolution, and error against latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from attn_bench.report.style import (
    REFERENCE_COLOUR,
    Look,
    heading,
    legend,
    legend_width,
    log_axis,
    looks,
    resolution_axis,
    value_axis,
)
from attn_bench.report.summary import Entry, Stat, Summary
from attn_bench.report.text import distinct, for_figure, significant

PANEL_WIDTH, PANEL_HEIGHT, ROW_HEIGHT = 4.3, 3.6, 0.3
ROW_LABEL_CHARACTERS, ROW_LABEL_WIDTH = 16, 0.7
RESOLUTION_WIDTH = 0.55
MOST_NUMBERS = 16
# Font size, per inch of a resolution, at which the longest status leaves its neighbours free.
STATUS_ROOM = 13
# Of a single resolution, how far apart the outermost models stand: on one line they would hide each other.
APART = 1.3
MARKER, RING = 7, 5


@dataclass(frozen=True)
class Panel:
    """One quantity against resolution."""

    column: str
    title: str
    label: str


def error_vs_resolution(summary: Summary) -> Figure | None:
    """Draw the primary metric against resolution; the constant predictor is a dashed line. None if no value."""
    metric = summary.metrics[summary.primary]
    label = summary.primary + (f" ({metric.unit})" if metric.unit else "")
    better = "lower is better" if metric.direction == "lower" else "higher is better"
    return _against_resolution(
        summary, summary.primary, [Panel(summary.primary, "", for_figure(f"{label}, {better}"))], metric=True
    )


def latency_vs_resolution(summary: Summary) -> Figure | None:
    """Draw the latency of forward pass and training step against resolution, log-log. None if there is no value."""
    unit = _batch(summary, "ms")
    return _against_resolution(
        summary,
        "latency",
        [
            Panel("latency_forward_ms", "forward", f"latency ({unit})"),
            Panel("latency_train_step_ms", "training step", f"latency ({unit})"),
        ],
    )


def memory_vs_resolution(summary: Summary) -> Figure | None:
    """Draw the peak memory of forward pass and training step against resolution, log-log. None if there is no value."""
    unit = _batch(summary, "MiB")
    return _against_resolution(
        summary,
        "peak memory",
        [
            Panel("peak_memory_forward_mib", "forward", f"peak memory ({unit})"),
            Panel("peak_memory_train_mib", "training step", f"peak memory ({unit})"),
        ],
    )


def _batch(summary: Summary, unit: str) -> str:
    batch = summary.settings.get("batch_size", "")
    return f"{unit}, batch of {batch}" if batch.isdigit() else unit


def _against_resolution(summary: Summary, what: str, panels: Sequence[Panel], *, metric: bool = False) -> Figure | None:
    if not any(summary.has(panel.column) for panel in panels):
        return None
    look = looks(summary)
    failing = [model for model in summary.models if any(entry.failures for entry in summary.of(model))]
    strip = ROW_HEIGHT * len(failing)
    width = max(PANEL_WIDTH, RESOLUTION_WIDTH * len(summary.resolutions))
    size = (width * len(panels) + legend_width(look.values()), PANEL_HEIGHT)
    if failing:
        size = (size[0] + ROW_LABEL_WIDTH, size[1] + strip + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    rows = 2 if failing else 1
    grid = GridSpec(rows, len(panels), figure=figure, height_ratios=[strip, PANEL_HEIGHT][-rows:])
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(grid[rows - 1, i])
        _draw(axes, summary, panel, look, metric=metric)
        top = axes
        if failing:
            top = figure.add_subplot(grid[0, i], sharex=axes)
            _draw_failures(top, summary, failing, look, labelled=i == 0)
        if panel.title:
            top.set_title(panel.title, loc="left")
    extra = {}
    if metric and any(entry.mean(summary.primary) is not None for m in summary.references for entry in summary.of(m)):
        extra["mean of the training set"] = Line2D([], [], color=REFERENCE_COLOUR, linestyle="--")
    legend(figure, list(look.values()), extra)
    heading(figure, summary, what)
    return figure


def _draw(axes: Axes, summary: Summary, panel: Panel, look: dict[str, Look], *, metric: bool) -> None:
    seen: list[float] = []
    alone = len(summary.resolutions) == 1
    places = dict(zip(look, np.geomspace(1 / APART, APART, len(look)) if alone and len(look) > 1 else ()))
    drawn = {m: [e for e in summary.of(m) if panel.column in e.values] for m in look}
    # Those that read the same are drawn inside each other, the first around the next.
    inside = Counter(_spot(entry, panel.column) for entries in drawn.values() for entry in entries)
    for model, entries in drawn.items():
        its = look[model]
        stats = [entry.values[panel.column] for entry in entries]
        x = [entry.resolution * places.get(model, 1.0) for entry in entries]
        axes.errorbar(
            x, [s.mean for s in stats], yerr=_bars(stats), color=its.colour, capsize=3, elinewidth=1.2, zorder=3
        )
        for place, entry, stat in zip(x, entries, stats):
            inside[_spot(entry, panel.column)] -= 1
            size = MARKER if alone else MARKER + RING * inside[_spot(entry, panel.column)]
            axes.plot(
                place, stat.mean, color=its.colour, marker=its.marker, markersize=size, markeredgecolor="white",
                zorder=3,
            )  # fmt: skip
        seen += [bound for stat in stats for bound in (stat.low, stat.high)]
    if metric:
        seen += _draw_references(axes, summary, panel.column)
    axes.set_ylabel(panel.label)
    resolution_axis(axes, summary.resolutions, summary.axis)
    if not seen:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", va="center", color="0.4")
    elif metric:
        value_axis(axes, seen, higher=summary.metrics[panel.column].direction == "higher")
    elif min(seen) > 0:
        log_axis(axes, "y", seen)
    else:
        axes.set_ylim(0, 1.1 * max(seen) or 1)


def _spot(entry: Entry, column: str) -> tuple[int, str]:
    return entry.resolution, significant(entry.values[column].mean)


def _bars(stats: Sequence[Stat]) -> list[list[float]]:
    """Return how far the intervals reach below and above each mean."""
    return [[max(s.mean - s.low, 0) for s in stats], [max(s.high - s.mean, 0) for s in stats]]


def _draw_references(axes: Axes, summary: Summary, column: str) -> list[float]:
    seen: list[float] = []
    for model in summary.references:
        points = [
            (entry.resolution, entry.values[column].mean) for entry in summary.of(model) if column in entry.values
        ]
        if len(points) == 1:
            axes.axhline(points[0][1], color=REFERENCE_COLOUR, linestyle="--", zorder=2)
        elif points:
            axes.plot(*zip(*points), color=REFERENCE_COLOUR, linestyle="--", zorder=2)
        seen += [value for _, value in points]
    return seen


def _draw_failures(axes: Axes, summary: Summary, failing: list[str], look: dict[str, Look], *, labelled: bool) -> None:
    """One row per model that failed somewhere, with the status at the resolution where it did."""
    size = min(9, STATUS_ROOM * max(RESOLUTION_WIDTH, PANEL_WIDTH / len(summary.resolutions)))
    for row, model in enumerate(failing):
        for entry in summary.of(model):
            if entry.failures:
                axes.text(
                    entry.resolution, row, _short_status(entry), fontsize=size, color="0.15", ha="center", va="center",
                    bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": look[model].colour},
                )  # fmt: skip
    names = distinct(failing, ROW_LABEL_CHARACTERS)
    axes.set_ylim(len(failing) - 0.5, -0.5)
    labels = [for_figure(names[model]) if labelled else "" for model in failing]
    axes.set_yticks(range(len(failing)), labels, fontsize=9)
    axes.tick_params(axis="y", pad=20)
    axes.tick_params(axis="x", labelbottom=False, bottom=False)
    axes.grid(axis="y", visible=False)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _short_status(entry: Entry) -> str:
    """Return the status in few letters: several ways to fail at one resolution are told apart in the table."""
    statuses = {failure.status for failure in entry.failures}
    failed = sum(len(failure.seeds) for failure in entry.failures)
    status = statuses.pop() if len(statuses) == 1 else "failed"
    return status if failed == entry.seeds else f"{status} {failed}/{entry.seeds}"


def error_vs_latency(summary: Summary) -> Figure | None:
    """Draw the primary metric against forward latency, a line per model, and the Pareto front of each resolution.

    Errors at different resolutions are errors on different problems, so models compete at the same one only. None if no
    entry has both values.
    """
    x_column, y_column = "latency_forward_ms", summary.primary
    metric = summary.metrics[y_column]
    higher = metric.direction == "higher"
    look = looks(summary)
    drawn = {
        model: [entry for entry in summary.of(model) if x_column in entry.values and y_column in entry.values]
        for model in look
    }
    if not any(drawn.values()):
        return None
    figure = Figure(
        figsize=(PANEL_WIDTH * 1.25 + legend_width(look.values()), PANEL_HEIGHT * 1.2), layout="constrained"
    )
    axes = figure.add_subplot()
    sizes = {resolution: 6 + 1.2 * i for i, resolution in enumerate(summary.resolutions)}
    everything = [entry for entries in drawn.values() for entry in entries]
    for model, entries in drawn.items():
        its = look[model]
        axes.errorbar(
            *_points(entries, x_column, y_column), xerr=_bars([e.values[x_column] for e in entries]),
            yerr=_bars([e.values[y_column] for e in entries]), color=its.colour, linewidth=1, elinewidth=1, capsize=2,
            zorder=3,
        )  # fmt: skip
        for entry in entries:
            axes.plot(
                *_points([entry], x_column, y_column), color=its.colour, marker=its.marker, markeredgecolor="white",
                markersize=sizes[entry.resolution], zorder=3,
            )  # fmt: skip
    for resolution in summary.resolutions:
        rivals = [entry for entry in everything if entry.resolution == resolution]
        front = pareto_front(rivals, x_column, y_column, higher=higher)
        x, y = _points(front, x_column, y_column)
        axes.plot(x, y, color="0.45", linewidth=1.2, linestyle=":", drawstyle="steps-post", zorder=2)
        axes.plot(
            x, y, linestyle="", marker="o", markersize=14, markerfacecolor="none", markeredgecolor="0.2", zorder=4
        )
        if len(summary.resolutions) > 1:
            # More numbers than this hide each other.
            for entry in rivals if len(everything) <= MOST_NUMBERS else front:
                axes.annotate(
                    str(resolution), (entry.values[x_column].mean, entry.values[y_column].mean), xytext=(7, 7),
                    textcoords="offset points", fontsize=7, color="0.35", zorder=5,
                )  # fmt: skip
    means = [entry.mean(y_column) for model in summary.references for entry in summary.of(model)]
    # Worth a line only if it is the same at every resolution.
    found = [value for value in means if value is not None]
    reference = found[:1] if found and max(found) - min(found) <= 0.02 * max(found) else []
    for value in reference:
        axes.axhline(value, color=REFERENCE_COLOUR, linestyle="--", linewidth=1, zorder=1)
    log_axis(axes, "x", [bound for bound in _bounds(everything, x_column) if bound > 0])
    value_axis(axes, [*_bounds(everything, y_column), *reference], higher=higher)
    axes.set_xlabel(f"forward latency ({_batch(summary, 'ms')})")
    label = y_column + (f" ({metric.unit})" if metric.unit else "")
    axes.set_ylabel(for_figure(f"{label}, {'higher' if higher else 'lower'} is better"))
    ring = Line2D(
        [], [], color="0.45", linestyle=":", marker="o", markersize=11, markerfacecolor="none", markeredgecolor="0.2"
    )
    extra = {"Pareto front\nof a resolution": ring}
    if reference:
        extra["mean of the training set"] = Line2D([], [], color=REFERENCE_COLOUR, linestyle="--")
    legend(figure, [look[model] for model, entries in drawn.items() if entries], extra)
    heading(figure, summary, f"{y_column} against latency")
    return figure


def _points(entries: Sequence[Entry], x_column: str, y_column: str) -> tuple[list[float], list[float]]:
    return [entry.values[x_column].mean for entry in entries], [entry.values[y_column].mean for entry in entries]


def _bounds(entries: Sequence[Entry], column: str) -> list[float]:
    return [bound for e in entries for bound in (e.values[column].low, e.values[column].mean, e.values[column].high)]


def pareto_front(entries: Sequence[Entry], cost: str, score: str, *, higher: bool) -> list[Entry]:
    """Return the entries than which no other is both cheaper and better, cheapest first."""
    sign = -1 if higher else 1
    front: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (e.values[cost].mean, sign * e.values[score].mean)):
        if not front or sign * entry.values[score].mean < sign * front[-1].values[score].mean:
            front.append(entry)
    return front
